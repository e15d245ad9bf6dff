foreach(name uffd uffd_lanes uffd_move)
	add_executable(${name}_test ${name}_test.c)
	target_link_libraries(${name}_test PRIVATE uffd PkgConfig::CMOCKA)
	add_test(NAME unit/${name}_test COMMAND ${name}_test)
	set_tests_properties(unit/${name}_test PROPERTIES SKIP_RETURN_CODE 77
		TIMEOUT 120)
endforeach()
