# 77: skipped, the test has said why.
foreach(name mem_test cpuid_test vcpu_test dirty_test)
	add_executable(${name} ${name}.c)
	target_link_libraries(${name} PRIVATE vmm PkgConfig::CMOCKA)
	add_test(NAME unit/${name} COMMAND ${name})
	set_tests_properties(unit/${name} PROPERTIES SKIP_RETURN_CODE 77
		TIMEOUT 120)
endforeach()
