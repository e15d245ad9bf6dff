# 77: skipped, the test has said why.
foreach(name state_codec_test image_test fill_test block_test snapshot_test)
	add_executable(${name} ${name}.c)
	target_link_libraries(${name} PRIVATE migrate PkgConfig::CMOCKA)
	add_test(NAME unit/${name} COMMAND ${name})
	set_tests_properties(unit/${name} PROPERTIES SKIP_RETURN_CODE 77
		TIMEOUT 300)
endforeach()
