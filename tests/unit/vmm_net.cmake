# Network card, balloon, console, vsock; virtio_driver.c is the driver's side.
# 77: skipped, the test has said why.
function(vmm_net_test name)
	add_executable(${name} ${name}.c virtio_driver.c ${ARGN})
	target_link_libraries(${name} PRIVATE vmm PkgConfig::CMOCKA)
	add_test(NAME unit/${name} COMMAND ${name})
	set_tests_properties(unit/${name} PROPERTIES SKIP_RETURN_CODE 77
		TIMEOUT 240)
endfunction()

vmm_net_test(virtio_net_test net_fixture.c)
target_link_options(virtio_net_test PRIVATE "-Wl,--wrap=writev")
vmm_net_test(virtio_net_move_test net_fixture.c)
vmm_net_test(virtio_balloon_test)
vmm_net_test(virtio_console_test)
vmm_net_test(virtio_vsock_test vsock_fixture.c)
vmm_net_test(virtio_vsock_hostile_test vsock_fixture.c)
