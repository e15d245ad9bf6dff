add_executable(cli_args_test cli_args_test.c)
target_link_libraries(cli_args_test PRIVATE cli_core PkgConfig::CMOCKA)
add_test(NAME unit/cli_args_test COMMAND cli_args_test)
set_tests_properties(unit/cli_args_test PROPERTIES TIMEOUT 60)
