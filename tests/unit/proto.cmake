add_executable(batch_test batch_test.c)
target_link_libraries(batch_test PRIVATE proto PkgConfig::CMOCKA)
add_test(NAME unit/batch_test COMMAND batch_test)

add_executable(frame_test frame_test.c)
target_link_libraries(frame_test PRIVATE proto PkgConfig::CMOCKA)
add_test(NAME unit/frame_test COMMAND frame_test)
