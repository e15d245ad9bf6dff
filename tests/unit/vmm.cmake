# 77: skipped, the test has said why.
foreach(name bitmap_test mem_test cpuid_test vcpu_test slice_test dirty_test)
	add_executable(${name} ${name}.c)
	target_link_libraries(${name} PRIVATE vmm PkgConfig::CMOCKA)
	add_test(NAME unit/${name} COMMAND ${name})
	set_tests_properties(unit/${name} PROPERTIES SKIP_RETURN_CODE 77
		TIMEOUT 120)
endforeach()

# Devices without PCI and without KVM: virtio_driver.c is the driver's side.
foreach(name virtqueue_test virtqueue_hostile_test)
	add_executable(${name} ${name}.c virtio_driver.c)
	target_link_libraries(${name} PRIVATE vmm PkgConfig::CMOCKA)
	add_test(NAME unit/${name} COMMAND ${name})
	set_tests_properties(unit/${name} PROPERTIES TIMEOUT 240)
endforeach()

# With a PCI bus: what would reach KVM is caught by pci_fixture.c.
foreach(name pci_test virtio_pci_test)
	add_executable(${name} ${name}.c pci_fixture.c virtio_driver.c)
	target_link_libraries(${name} PRIVATE vmm PkgConfig::CMOCKA)
	target_link_options(${name} PRIVATE -Wl,--wrap=vm_ioctl)
	add_test(NAME unit/${name} COMMAND ${name})
	set_tests_properties(unit/${name} PROPERTIES TIMEOUT 120)
endforeach()

# The disk, on image files in /tmp.
add_executable(disk_test disk_test.c)
target_link_libraries(disk_test PRIVATE vmm PkgConfig::CMOCKA)
foreach(name virtio_blk_test virtio_blk_stress_test virtio_blk_missing_test)
	add_executable(${name} ${name}.c virtio_blk_fixture.c virtio_driver.c)
	target_link_libraries(${name} PRIVATE vmm PkgConfig::LIBURING
		PkgConfig::CMOCKA)
endforeach()
foreach(name disk_test virtio_blk_test virtio_blk_stress_test
		virtio_blk_missing_test)
	add_test(NAME unit/${name} COMMAND ${name})
	set_tests_properties(unit/${name} PROPERTIES SKIP_RETURN_CODE 77
		TIMEOUT 240)
endforeach()
