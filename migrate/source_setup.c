#include "migrate/source_internal.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "migrate/faultpoint.h"
#include "migrate/hardware_codec.h"
#include "migrate/pending.h"
#include "migrate/say.h"
#include "proto/control.pb-c.h"
#include "vmm/device.h"

static int say_and_free(struct mig_source *s, int ret, char *err)
{
	if (err)
		mig_source_say(s, err);
	else
		mig_source_say_errno(s, ret);
	free(err);
	return ret;
}

/* One connection of the session, introduced. */
static int open_connection(struct mig_source *s, enum proto_role role,
			   unsigned int channel, const uint8_t *id, int *ret_fd)
{
	struct proto_hello hello = {
		.version = PROTO_VERSION,
		.role = role,
		.channel = (uint16_t)channel,
	};
	uint8_t buf[PROTO_HELLO_BYTES];
	char *err = NULL;
	int fd, ret;

	memcpy(hello.session, id, sizeof(hello.session));
	proto_hello_encode(&hello, buf);
	ret = mig_net_connect(&s->addr, &fd, &err);
	if (ret < 0)
		return say_and_free(s, ret, err);
	ret = mig_net_write(fd, buf, sizeof(buf));
	if (ret < 0) {
		close(fd);
		return say_and_free(s, ret, NULL);
	}
	*ret_fd = fd;
	return 0;
}

static void publish_session(struct mig_source *s, struct mig_session *session)
{
	pthread_mutex_lock(&s->lock);
	s->session = session;
	if (s->ending || s->cancelled)
		mig_session_break(session, -ECANCELED, "cancelled by request");
	pthread_mutex_unlock(&s->lock);
}

int mig_source_connect(struct mig_source *s)
{
	uint8_t id[PROTO_SESSION_BYTES];
	struct mig_session *session;
	int fd, ret;

	if (getrandom(id, sizeof(id), 0) != sizeof(id))
		return -EIO;
	ret = open_connection(s, PROTO_ROLE_CONTROL, 0, id, &fd);
	if (ret < 0)
		return ret;
	ret = mig_session_new(id, fd, s->cfg.channels, 1, NULL, NULL, &session);
	if (ret < 0)
		return say_and_free(s, ret, NULL);
	publish_session(s, session);
	return 0;
}

static void fill_slots(struct mig_source *s, Vmmd__Setup *setup,
		       Vmmd__Slot slots[VM_SLOTS_MAX],
		       Vmmd__Slot *slot_ptrs[VM_SLOTS_MAX])
{
	const struct vm_slot *have;
	size_t i;

	setup->n_slots = vm_mem_slots(s->mem, &have);
	setup->slots = slot_ptrs;
	for (i = 0; i < setup->n_slots; i++) {
		vmmd__slot__init(&slots[i]);
		slots[i].gpa = have[i].gpa;
		slots[i].offset = have[i].offset;
		slots[i].bytes = have[i].bytes;
		slot_ptrs[i] = &slots[i];
	}
}

static void fill_devices(struct mig_source *s, Vmmd__Setup *setup,
			 char *names[VM_DEVICES_MAX])
{
	struct vm_device *const *devices;
	size_t i;

	setup->n_devices = vm_devices(s->vm, &devices);
	setup->devices = names;
	for (i = 0; i < setup->n_devices; i++)
		names[i] = (char *)devices[i]->ops->name;
}

static void fill_hardware(Vmmd__Setup *setup, const struct mig_hardware *h,
			  struct mig_hardware_msg *msg)
{
	static char feature[] = MIG_FEATURE_HARDWARE;
	static char *required[] = { feature };

	if (!mig_hardware_is_any(h))
		return;
	mig_hardware_fill(h, msg);
	setup->hardware = &msg->msg;
	setup->required = required;
	setup->n_required = 1;
}

/* One for each vCPU that may wait, and no more than there are for the bulk. */
static unsigned int fault_channels(const struct mig_source *s)
{
	unsigned int cpus = vm_nr_cpus(s->vm);

	return cpus < s->cfg.channels ? cpus : s->cfg.channels;
}

static int send_setup(struct mig_source *s)
{
	Vmmd__Setup setup = VMMD__SETUP__INIT;
	Vmmd__Slot slots[VM_SLOTS_MAX], *slot_ptrs[VM_SLOTS_MAX];
	const struct kvm_cpuid_entry2 *cpuid;
	struct mig_hardware_msg hw_msg;
	char *names[VM_DEVICES_MAX];
	struct mig_hardware hw;
	const uint32_t *msrs;
	int ret;

	ret = mig_hardware_of(s->vm, &hw);
	if (ret < 0)
		return ret;
	setup.vmmd_version = (char *)VMMD_VERSION;
	setup.ram_bytes = vm_mem_bytes(s->mem);
	setup.page_bytes = PROTO_PAGE_BYTES;
	setup.mem_backend = (char *)vm_mem_backend_name(vm_mem_backend(s->mem));
	setup.nr_cpus = vm_nr_cpus(s->vm);
	setup.tsc_khz = vm_tsc_khz(s->vm);
	setup.xsave_bytes = vm_xsave_bytes(s->vm);
	setup.cpuid.len = vm_cpuid(s->vm, &cpuid) * sizeof(*cpuid);
	setup.cpuid.data = (uint8_t *)cpuid;
	setup.n_msrs = vm_msr_indices(s->vm, &msrs);
	setup.msrs = (uint32_t *)msrs;
	setup.mode = (char *)mig_mode_name(s->cfg.mode);
	setup.channels = s->cfg.channels;
	setup.fault_channels = fault_channels(s);
	fill_slots(s, &setup, slots, slot_ptrs);
	fill_devices(s, &setup, names);
	fill_hardware(&setup, &hw, &hw_msg);
	ret = mig_link_send(s->session->link, PROTO_SETUP, &setup.base);
	mig_hardware_fini(&hw);
	return ret;
}

/* Every reason at once, one a line. */
static int say_refused(struct mig_source *s, const Vmmd__SetupReply *reply)
{
	char text[MIG_ERROR_BYTES] = "the receiver refuses:";
	size_t i;

	for (i = 0; i < reply->n_reasons; i++) {
		size_t used = strlen(text);

		snprintf(text + used, sizeof(text) - used, "%s%s",
			 reply->n_reasons > 1 ? "\n  - " : " ",
			 reply->reasons[i]);
	}
	mig_clean_text(text);
	mig_source_say(s, text);
	return -EOPNOTSUPP;
}

/* A receiver that does not say takes one. */
static int note_fault_channels(struct mig_source *s,
			       const Vmmd__SetupReply *reply)
{
	unsigned int nr = reply->fault_channels ? reply->fault_channels : 1;

	if (nr > fault_channels(s)) {
		mig_source_say(s, "the receiver wants more fault channels than "
				  "there are");
		return -EPROTO;
	}
	s->session->fault_channels = nr;
	return 0;
}

int mig_source_agree(struct mig_source *s)
{
	const Vmmd__SetupReply *reply;
	ProtobufCMessage *msg;
	int ret;

	mig_fault_point(s->session, "setup");
	ret = send_setup(s);
	if (ret < 0)
		return ret;
	ret = mig_link_recv(s->session->link, PROTO_SETUP_REPLY, &msg);
	if (ret < 0)
		return ret;
	reply = (Vmmd__SetupReply *)msg;
	if (reply->n_reasons > 0)
		ret = say_refused(s, reply);
	else
		ret = note_fault_channels(s, reply);
	s->sends_ahead = reply->takes_ahead;
	s->sends_marks = reply->answers_marks;
	/* Both machines have the same shape, and loading is much like saving. */
	mig_converge_cost(&s->converge, MIG_COST_STATE, reply->state_us);
	mig_converge_cost(&s->converge, MIG_COST_LOAD, reply->state_us);
	protobuf_c_message_free_unpacked(msg, NULL);
	return ret;
}

int mig_source_open_channels(struct mig_source *s)
{
	struct mig_session *session = s->session;
	unsigned int i;
	int fd, ret;

	for (i = 0; i < s->cfg.channels; i++) {
		ret = open_connection(s, PROTO_ROLE_DATA, i, session->id, &fd);
		if (ret < 0)
			return ret;
		mig_session_attach(session, &session->data_fds[i], fd);
	}
	for (i = 0; i < session->fault_channels; i++) {
		ret = open_connection(s, PROTO_ROLE_FAULT, i, session->id, &fd);
		if (ret < 0)
			return ret;
		mig_session_attach(session, &session->fault_fds[i], fd);
	}
	mig_fault_point(session, "agreed");
	return 0;
}

/*
 * The receiver's pending bitmap is the truth: what we sent and it did not get is
 * in it, whatever we believe.
 */
static int recv_pending(struct mig_source *s, uint64_t expected_pages)
{
	size_t words = bitmap_words(s->ram_pages);
	ProtobufCMessage *msg;
	int ret = expected_pages > s->ram_pages ? -EBADMSG : 0;

	memset(s->pending, 0, words * sizeof(*s->pending));
	while (ret == 0 &&
	       bitmap_count(s->pending, s->ram_pages) < expected_pages) {
		ret = mig_link_recv(s->session->link, PROTO_PENDING, &msg);
		if (ret < 0)
			break;
		ret = mig_pending_decode((Vmmd__Pending *)msg, s->pending,
					 s->ram_pages);
		protobuf_c_message_free_unpacked(msg, NULL);
	}
	return ret;
}

static int recv_rejoin_reply(struct mig_source *s, bool *ret_never_ran,
			     uint64_t *ret_pages)
{
	ProtobufCMessage *msg;
	int ret;

	ret = mig_link_recv(s->session->link, PROTO_REJOIN_REPLY, &msg);
	if (ret < 0)
		return ret;
	*ret_never_ran = ((Vmmd__RejoinReply *)msg)->never_ran;
	*ret_pages = ((Vmmd__RejoinReply *)msg)->pending_pages;
	protobuf_c_message_free_unpacked(msg, NULL);
	return 0;
}

int mig_source_rejoin(struct mig_source *s, bool *ret_never_ran)
{
	struct mig_session *old = s->session, *session;
	Vmmd__Bye bye = VMMD__BYE__INIT;
	uint64_t pages = 0;
	int fd, ret;

	ret = open_connection(s, PROTO_ROLE_REJOIN, 0, old->id, &fd);
	if (ret < 0)
		return ret;
	ret = mig_session_new(old->id, fd, old->channels, old->fault_channels,
			      NULL, NULL, &session);
	if (ret < 0)
		return say_and_free(s, ret, NULL);
	publish_session(s, session);
	mig_session_free(old);

	ret = recv_rejoin_reply(s, ret_never_ran, &pages);
	if (ret < 0)
		return ret;
	if (*ret_never_ran)
		return mig_link_send(session->link, PROTO_BYE, &bye.base);
	ret = recv_pending(s, pages);
	return ret < 0 ? ret : mig_source_open_channels(s);
}

void mig_source_abort_peer(struct mig_source *s)
{
	struct timeval patience = { .tv_sec = 2 };
	uint8_t nothing;
	int fd;

	if (open_connection(s, PROTO_ROLE_ABORT, 0, s->session->id, &fd) < 0)
		return;
	/* Its end of file says that it has been read. */
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	(void)!read(fd, &nothing, 1);
	close(fd);
}
