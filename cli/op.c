#include "cli/op.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/log.h"
#include "cli/report.h"

struct op {
	enum op_kind kind;
	struct op_owner owner;
	ev_async news; /* sent by the operation's threads */
	union {
		struct mig_source *source;
		struct mig_snapshot *snapshot;
		struct mig_dest *dest;
		struct mig_restore *restore;
	};
};

/* The statistics of any kind. */
union op_stats {
	struct mig_stats migration;
	struct mig_snapshot_stats snapshot;
	struct mig_restore_stats restore;
};

/* Any thread. */
static void post_news(void *ctx)
{
	struct op *op = ctx;

	ev_async_send(op->owner.loop, &op->news);
}

static void on_news(struct ev_loop *loop, ev_async *async, int revents)
{
	struct op *op = async->data;

	(void)loop;
	(void)revents;
	op->owner.changed(op->owner.ctx);
}

static struct op *op_new(const struct op_owner *owner, enum op_kind kind)
{
	struct op *op = calloc(1, sizeof(*op));

	if (!op)
		return NULL;
	op->kind = kind;
	op->owner = *owner;
	ev_async_init(&op->news, on_news);
	op->news.data = op;
	ev_async_start(owner->loop, &op->news);
	return op;
}

/* What starting it said, and whose op is. */
static int op_started(struct op *op, int ret, struct op **ret_op, char **err)
{
	if (ret == 0) {
		*ret_op = op;
		return 0;
	}
	if (!*err)
		*err = cli_line("cannot start to %s: %s", op_name(op),
				strerror(-ret));
	ev_async_stop(op->owner.loop, &op->news);
	free(op);
	return ret;
}

int op_migrate(const struct op_owner *owner, struct mig_guest *g,
	       const struct mig_source_config *cfg, struct op **ret_op,
	       char **err)
{
	static const struct mig_source_ops ops = { .changed = post_news };
	struct op *op = op_new(owner, OP_MIGRATE);

	if (!op)
		return -ENOMEM;
	return op_started(op,
			  mig_source_start(g, cfg, &ops, op, &op->source, err),
			  ret_op, err);
}

int op_snapshot(const struct op_owner *owner, struct mig_guest *g,
		const struct mig_snapshot_config *cfg, struct op **ret_op,
		char **err)
{
	static const struct mig_snapshot_ops ops = { .changed = post_news };
	struct op *op = op_new(owner, OP_SNAPSHOT);

	if (!op)
		return -ENOMEM;
	return op_started(
		op, mig_snapshot_start(g, cfg, &ops, op, &op->snapshot, err),
		ret_op, err);
}

int op_receive(const struct op_owner *owner, const struct mig_dest_config *cfg,
	       struct op **ret_op, char **err)
{
	static const struct mig_dest_ops ops = { .changed = post_news };
	struct op *op = op_new(owner, OP_RECEIVE);

	if (!op)
		return -ENOMEM;
	return op_started(op, mig_dest_start(cfg, &ops, op, &op->dest), ret_op,
			  err);
}

int op_restore(const struct op_owner *owner,
	       const struct mig_restore_config *cfg, struct op **ret_op,
	       char **err)
{
	static const struct mig_restore_ops ops = { .changed = post_news };
	struct op *op = op_new(owner, OP_RESTORE);

	if (!op)
		return -ENOMEM;
	return op_started(op, mig_restore_start(cfg, &ops, op, &op->restore),
			  ret_op, err);
}

enum op_kind op_kind(const struct op *op)
{
	return op->kind;
}

const char *op_name(const struct op *op)
{
	static const char *const names[] = {
		[OP_MIGRATE] = "migrate",
		[OP_SNAPSHOT] = "snapshot",
		[OP_RECEIVE] = "receive",
		[OP_RESTORE] = "restore",
	};

	return names[op->kind];
}

static void read_status(const struct op *op, struct mig_status *status,
			union op_stats *stats)
{
	switch (op->kind) {
	case OP_MIGRATE:
		mig_source_status(op->source, status, &stats->migration);
		return;
	case OP_SNAPSHOT:
		mig_snapshot_status(op->snapshot, status, &stats->snapshot);
		return;
	case OP_RECEIVE:
		mig_dest_status(op->dest, status, &stats->migration);
		return;
	default:
		mig_restore_status(op->restore, status, &stats->restore);
	}
}

void op_status(const struct op *op, struct mig_status *ret_status)
{
	union op_stats stats;

	read_status(op, ret_status, &stats);
}

json_t *op_report(const struct op *op)
{
	struct mig_status status;
	union op_stats stats;

	read_status(op, &status, &stats);
	switch (op->kind) {
	case OP_SNAPSHOT:
		return report_snapshot(&status, &stats.snapshot);
	case OP_RESTORE:
		return report_restore(&status, &stats.restore);
	default:
		return report_migration(&status, &stats.migration);
	}
}

json_t *op_progress(const struct op *op)
{
	struct report_progress p = { 0 };
	struct mig_status status;
	union op_stats stats;

	read_status(op, &status, &stats);
	p.phase = status.phase;
	switch (op->kind) {
	case OP_SNAPSHOT:
		p.left_pages = stats.snapshot.left_pages;
		p.total_pages = stats.snapshot.total_pages;
		p.bytes = stats.snapshot.bytes_written;
		break;
	case OP_RESTORE:
		p.left_pages = stats.restore.left_pages;
		p.total_pages = stats.restore.total_pages;
		break;
	default:
		p.left_pages = stats.migration.left_pages;
		p.total_pages = stats.migration.total_pages;
		p.bytes = stats.migration.bytes_sent;
		p.rounds = stats.migration.rounds;
	}
	return report_progress(&p);
}

int op_cancel(struct op *op)
{
	if (op->kind == OP_MIGRATE)
		return mig_source_cancel(op->source);
	if (op->kind == OP_SNAPSHOT)
		mig_snapshot_cancel(op->snapshot);
	return 0;
}

int op_change(struct op *op, const struct mig_source_change *change, char **err)
{
	if (op->kind != OP_MIGRATE)
		return -EINVAL;
	return mig_source_change(op->source, change, err);
}

int op_rejoin(struct op *op, const char *uri, char **err)
{
	if (op->kind != OP_MIGRATE)
		return -EINVAL;
	return mig_source_resume(op->source, uri, err);
}

struct mig_guest *op_guest(struct op *op)
{
	if (op->kind == OP_RECEIVE)
		return mig_dest_guest(op->dest);
	if (op->kind == OP_RESTORE)
		return mig_restore_guest(op->restore);
	return NULL;
}

void op_free(struct op *op)
{
	if (!op)
		return;
	switch (op->kind) {
	case OP_MIGRATE:
		/* Free waits for its thread: be quick while we may. */
		mig_source_cancel(op->source);
		mig_source_free(op->source);
		break;
	case OP_SNAPSHOT:
		mig_snapshot_cancel(op->snapshot);
		mig_snapshot_free(op->snapshot);
		break;
	case OP_RECEIVE:
		mig_dest_free(op->dest);
		break;
	case OP_RESTORE:
		mig_restore_free(op->restore);
		break;
	}
	ev_async_stop(op->owner.loop, &op->news);
	free(op);
}
