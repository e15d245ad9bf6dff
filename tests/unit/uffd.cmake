add_executable(uffd_test uffd_test.c)
target_link_libraries(uffd_test PRIVATE uffd PkgConfig::CMOCKA)
add_test(NAME unit/uffd_test COMMAND uffd_test)
set_tests_properties(unit/uffd_test PROPERTIES SKIP_RETURN_CODE 77
	TIMEOUT 120)
