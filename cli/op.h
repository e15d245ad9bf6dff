/*
 * cli/op.h: the long operations of migrate/ behind one face.
 *
 * MIGRATE and SNAPSHOT borrow a guest; RECEIVE and RESTORE bring one.
 * Threads: the loop's. changed is called there, too, whenever it is time to look
 *          at op_phase() again.
 * Errors:  -errno and a line in *err, to be freed.
 */
#ifndef CLI_OP_H
#define CLI_OP_H

#include <ev.h>
#include <jansson.h>

#include "migrate/dest.h"
#include "migrate/guest.h"
#include "migrate/restore.h"
#include "migrate/snapshot.h"
#include "migrate/source.h"

enum op_kind { OP_MIGRATE, OP_SNAPSHOT, OP_RECEIVE, OP_RESTORE };

struct op;
typedef void op_changed(void *ctx);

/* Where changes are reported to. */
struct op_owner {
	struct ev_loop *loop;
	op_changed *changed;
	void *ctx;
};

int op_migrate(const struct op_owner *owner, struct mig_guest *g,
	       const struct mig_source_config *cfg, struct op **ret_op,
	       char **err);
int op_snapshot(const struct op_owner *owner, struct mig_guest *g,
		const struct mig_snapshot_config *cfg, struct op **ret_op,
		char **err);
int op_receive(const struct op_owner *owner, const struct mig_dest_config *cfg,
	       struct op **ret_op, char **err);
int op_restore(const struct op_owner *owner,
	       const struct mig_restore_config *cfg, struct op **ret_op,
	       char **err);

enum op_kind op_kind(const struct op *op);
const char *op_name(const struct op *op);
void op_status(const struct op *op, struct mig_status *ret_status);
/* New objects: the whole story, and where it is now. */
json_t *op_report(const struct op *op);
json_t *op_progress(const struct op *op);

/* MIGRATE, SNAPSHOT. -EBUSY: too late. */
int op_cancel(struct op *op);
/* MIGRATE. */
int op_change(struct op *op, const struct mig_source_change *change,
	      char **err);
/* MIGRATE in MIG_PAUSED: rejoin. */
int op_rejoin(struct op *op, const char *uri, char **err);
/* RECEIVE, RESTORE: the guest once it runs; the first call owns it. */
struct mig_guest *op_guest(struct op *op);
/* Stops it when it has not ended. NULL is fine. */
void op_free(struct op *op);

#endif
