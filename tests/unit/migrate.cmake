foreach(name phase converge cpu_check disk_copy hardware net_local rate flight follow waits
		complete_codec collapse)
	add_executable(${name}_test ${name}_test.c)
	target_link_libraries(${name}_test PRIVATE migrate PkgConfig::CMOCKA)
	add_test(NAME unit/${name}_test COMMAND ${name}_test)
	set_tests_properties(unit/${name}_test PROPERTIES SKIP_RETURN_CODE 77)
endforeach()
target_link_options(hardware_test PRIVATE
	-Wl,--wrap=vm_disk_info -Wl,--wrap=vm_net_info)

foreach(name source_live source_hot)
	add_executable(${name}_test ${name}_test.c source_fixture.c)
	target_link_libraries(${name}_test PRIVATE migrate PkgConfig::CMOCKA)
	add_test(NAME unit/${name}_test COMMAND ${name}_test)
	set_tests_properties(unit/${name}_test PROPERTIES SKIP_RETURN_CODE 77)
endforeach()
