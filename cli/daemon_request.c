#include "cli/daemon_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/log.h"

/* `why` may be NULL; it is freed. */
static void refuse(struct control_client *client, int exit_status, char *why)
{
	control_done(
		client, exit_status, why ? why : "out of memory",
		json_pack("{s:s, s:s*}", "result", "failed", "error", why));
	free(why);
}

/* Its own thread. */
static int probe_resident(void *ctx)
{
	struct daemon *d = ctx;

	d->resident_bytes = vm_mem_resident_bytes(vm_mem(d->guest->vm));
	return 0;
}

static void on_probed(void *ctx, int ret)
{
	struct daemon *d = ctx;

	(void)ret;
	control_done_all(d->control, WAIT_STATUS, CLI_DONE, NULL,
			 daemon_status_report(d));
}

static void on_status(struct daemon *d, struct control_client *client,
		      const json_t *request)
{
	int ret = -ENOENT;

	(void)request;
	control_wait_for(client, WAIT_STATUS);
	if (d->guest)
		ret = worker_start(d->probe, probe_resident, on_probed, d);
	/* -EBUSY: the probe that runs answers this one as well. */
	if (ret < 0 && ret != -EBUSY)
		control_done(client, CLI_DONE, NULL, daemon_status_report(d));
}

static void on_wait(struct daemon *d, struct control_client *client,
		    const json_t *request)
{
	(void)d;
	(void)request;
	control_wait_for(client, WAIT_END);
}

/* Its end comes as an event, if the guest has any intention of it. */
static void on_powerdown(struct daemon *d, struct control_client *client)
{
	if (vm_power_button(d->guest->vm))
		control_wait_for(client, WAIT_POWERDOWN);
	else
		refuse(client, CLI_FAILED,
		       cli_line("its power button was pressed, but the guest "
				"does not listen to it now"));
}

static void on_stop(struct daemon *d, struct control_client *client,
		    const json_t *request)
{
	bool force = json_is_true(json_object_get(request, "force"));
	char *err = NULL;
	int status;

	if (json_is_true(json_object_get(request, "powerdown"))) {
		on_powerdown(d, client);
		return;
	}
	control_wait_for(client, WAIT_STOPPED);
	status = daemon_stop(d, force, &err);
	if (status != CLI_DONE)
		refuse(client, status, err);
}

static void on_pause(struct daemon *d, struct control_client *client,
		     const json_t *request)
{
	char *err = NULL;

	(void)request;
	control_wait_for(client, WAIT_JOB);
	if (daemon_pause(d, &err) < 0)
		refuse(client, CLI_FAILED, err);
}

static void on_resume(struct daemon *d, struct control_client *client,
		      const json_t *request)
{
	char *err = NULL;

	(void)request;
	control_wait_for(client, WAIT_JOB);
	if (daemon_resume(d, &err) < 0)
		refuse(client, CLI_FAILED, err);
}

static void on_cancel(struct daemon *d, struct control_client *client,
		      const json_t *request)
{
	char *err = NULL;

	(void)request;
	control_wait_for(client, WAIT_CANCELLED);
	if (daemon_cancel(d, &err) < 0)
		refuse(client, CLI_FAILED, err);
}

static void on_rejoin(struct daemon *d, struct control_client *client,
		      const char *uri)
{
	char *err = NULL;

	control_wait_for(client, WAIT_OPERATION);
	if (daemon_rejoin(d, uri, &err) < 0)
		refuse(client, CLI_FAILED, err);
}

/* Absent keys leave what is in cfg. -EINVAL: nonsense. */
static int read_migrate(const json_t *request, struct mig_source_config *cfg)
{
	json_int_t channels = cfg->channels, bandwidth = 0;
	json_int_t limit = cfg->downtime_limit_ms;
	const char *mode = mig_mode_name(cfg->mode);

	if (json_unpack((json_t *)request, "{s:s, s?s, s?I, s?I, s?I, s?s}",
			"uri", &cfg->uri, "mode", &mode, "channels", &channels,
			"downtime_limit_ms", &limit, "max_bandwidth",
			&bandwidth, "tracker", &cfg->tracker) < 0)
		return -EINVAL;
	if (mig_mode_parse(mode, &cfg->mode) < 0)
		return -EINVAL;
	if (channels < 1 || channels > MIG_CHANNELS_MAX)
		return -EINVAL;
	if (limit < 0 || limit > UINT32_MAX || bandwidth < 0)
		return -EINVAL;
	cfg->channels = (unsigned int)channels;
	cfg->downtime_limit_ms = (uint32_t)limit;
	cfg->max_bandwidth = (uint64_t)bandwidth;
	return 0;
}

static void on_migrate(struct daemon *d, struct control_client *client,
		       const json_t *request)
{
	struct mig_source_config cfg = {
		.mode = MIG_MODE_HYBRID,
		.channels = MIG_CHANNELS_DEFAULT,
		.downtime_limit_ms = MIG_DOWNTIME_LIMIT_MS_DEFAULT,
		.tracker = "auto",
	};
	char *err = NULL;

	if (read_migrate(request, &cfg) < 0) {
		refuse(client, CLI_USAGE, cli_line("malformed request"));
		return;
	}
	if (json_is_true(json_object_get(request, "resume"))) {
		on_rejoin(d, client, cfg.uri);
		return;
	}
	control_wait_for(client, WAIT_OPERATION);
	if (daemon_migrate(d, &cfg, &err) < 0)
		refuse(client, CLI_FAILED, err);
}

/* False for nonsense. */
static bool read_u64(const json_t *o, uint64_t max, uint64_t *ret_value)
{
	if (!json_is_integer(o) || json_integer_value(o) < 0 ||
	    (uint64_t)json_integer_value(o) > max)
		return false;
	*ret_value = (uint64_t)json_integer_value(o);
	return true;
}

static void on_adjust(struct daemon *d, struct control_client *client,
		      const json_t *request)
{
	const json_t *limit = json_object_get(request, "downtime_limit_ms");
	const json_t *rate = json_object_get(request, "max_bandwidth");
	uint64_t limit_ms = 0, bytes_per_s = 0;
	struct mig_source_change change = {
		.downtime_limit_ms = limit ? &limit_ms : NULL,
		.max_bandwidth = rate ? &bytes_per_s : NULL,
		.postcopy = json_is_true(json_object_get(request, "postcopy")),
	};
	char *err = NULL;

	if ((limit && !read_u64(limit, UINT32_MAX, &limit_ms)) ||
	    (rate && !read_u64(rate, INT64_MAX, &bytes_per_s)))
		refuse(client, CLI_USAGE, cli_line("malformed request"));
	else if (op_change(d->op, &change, &err) < 0)
		refuse(client, CLI_FAILED, err);
	else
		control_done(client, CLI_DONE, NULL, NULL);
}

static void on_balloon(struct daemon *d, struct control_client *client,
		       const json_t *request)
{
	const json_t *bytes = json_object_get(request, "bytes");
	char *err = NULL;

	if (!json_is_integer(bytes) || json_integer_value(bytes) < 0) {
		refuse(client, CLI_USAGE, cli_line("malformed request"));
		return;
	}
	if (daemon_balloon(d, (uint64_t)json_integer_value(bytes), &err) < 0)
		refuse(client, CLI_FAILED, err);
	else
		control_done(client, CLI_DONE, NULL, NULL);
}

static void on_snapshot(struct daemon *d, struct control_client *client,
			const json_t *request)
{
	struct mig_snapshot_config cfg = {
		.dir = json_string_value(json_object_get(request, "dir")),
		.stop = json_is_true(json_object_get(request, "stop")),
		.disks = json_is_true(json_object_get(request, "disks")),
	};
	char *err = NULL;

	if (!cfg.dir || cfg.dir[0] != '/') {
		refuse(client, CLI_USAGE,
		       cli_line("malformed request: \"dir\" is to be an "
				"absolute path"));
		return;
	}
	control_wait_for(client, WAIT_OPERATION);
	if (daemon_snapshot(d, &cfg, &err) < 0)
		refuse(client, CLI_FAILED, err);
}

static void on_type(struct daemon *d, struct control_client *client,
		    const json_t *request)
{
	const json_t *data = json_object_get(request, "data");

	if (!json_is_string(data)) {
		refuse(client, CLI_USAGE, cli_line("malformed request"));
		return;
	}
	if (serial_type(d->serial, json_string_value(data),
			json_string_length(data)) < 0) {
		refuse(client, CLI_FAILED,
		       cli_line("the guest does not read its serial port"));
		return;
	}
	/* Only what the port has taken moves with the guest. */
	if (d->state == DAEMON_MIGRATING && serial_pending(d->serial))
		control_wait_for(client, WAIT_TYPED);
	else
		control_done(client, CLI_DONE, NULL, NULL);
}

struct request {
	const char *cmd;
	unsigned int verb; /* 0: always accepted */
	void (*handle)(struct daemon *d, struct control_client *client,
		       const json_t *request);
};

static const struct request requests[] = {
	{ "status", 0, on_status },
	{ "wait", 0, on_wait },
	{ "stop", 0, on_stop },
	{ "pause", DO_PAUSE, on_pause },
	{ "resume", DO_RESUME, on_resume },
	{ "cancel", DO_CANCEL, on_cancel },
	{ "adjust", DO_ADJUST, on_adjust },
	{ "migrate", DO_MIGRATE, on_migrate },
	{ "snapshot", DO_SNAPSHOT, on_snapshot },
	{ "serial-input", DO_TYPE, on_type },
	{ "balloon", DO_BALLOON, on_balloon },
};

static unsigned int verb_of(const struct request *r, const json_t *request)
{
	if (r->verb == DO_MIGRATE &&
	    json_is_true(json_object_get(request, "resume")))
		return DO_REJOIN;
	if (r->handle == on_stop &&
	    json_is_true(json_object_get(request, "powerdown")))
		return DO_POWERDOWN;
	return r->verb;
}

/* Why a state does not accept a verb, in the terms of whoever asked. */
static void refuse_state(struct daemon *d, struct control_client *client,
			 unsigned int verb)
{
	const char *state = daemon_state_name(d);
	int status = CLI_FAILED;
	char *why;

	if (verb == DO_REJOIN)
		why = cli_line("no paused migration to resume: the guest is "
			       "%s",
			       state);
	else if (verb == DO_CANCEL)
		why = cli_line("nothing to cancel: the guest is %s", state);
	else if (verb == DO_ADJUST)
		why = cli_line("no migration to adjust: the guest is %s",
			       state);
	else
		why = cli_line("not possible now: the guest is %s", state);
	if (strcmp(state, "paused-migration") == 0)
		status = CLI_ATTENTION;
	refuse(client, status, why);
}

void daemon_on_request(void *ctx, struct control_client *client,
		       const char *cmd, const json_t *request)
{
	struct daemon *d = ctx;
	const struct request *r;
	unsigned int verb;
	size_t i;

	for (i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
		r = &requests[i];
		if (strcmp(cmd, r->cmd) != 0)
			continue;
		verb = verb_of(r, request);
		if (verb && !daemon_accepts(d, verb))
			refuse_state(d, client, verb);
		else
			r->handle(d, client, request);
		return;
	}
	refuse(client, CLI_USAGE, cli_line("unknown request '%.80s'", cmd));
}
