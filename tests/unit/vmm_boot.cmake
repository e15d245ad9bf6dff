# Boot and the machine's own devices. None of these tests needs /dev/kvm: what they
# would tell KVM is caught by the linker's --wrap and looked at.
function(vmm_boot_test name sources wraps)
	list(TRANSFORM wraps PREPEND "-Wl,--wrap=")
	add_executable(${name} ${name}.c ${sources})
	target_link_libraries(${name} PRIVATE vmm PkgConfig::CMOCKA)
	target_link_options(${name} PRIVATE ${wraps})
	add_test(NAME ${name} COMMAND ${name})
	set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77)
endfunction()

set(boot_wraps vm_vcpu_get_entry vm_vcpu_set_entry vm_reset_cpus)
vmm_boot_test(boot_test boot_fixture.c "${boot_wraps}")
vmm_boot_test(boot_hostile_test boot_fixture.c "${boot_wraps}")
vmm_boot_test(boot_acpi_test boot_fixture.c "${boot_wraps}")
vmm_boot_test(serial_test "" "vm_irq_set;vm_event_post")
vmm_boot_test(boot_platform_test "" "vm_irq_set;vm_event_post")
