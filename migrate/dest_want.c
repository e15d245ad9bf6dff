#include "migrate/dest_internal.h"

#include <sys/socket.h>

#include "migrate/net.h"

/* Of one channel, then of the next: neighbours go together. */
#define STRIPE_PAGES 512

void mig_dest_init_askers(struct mig_dest *d)
{
	for (unsigned int i = 0; i < PROTO_CHANNELS_MAX; i++) {
		pthread_mutex_init(&d->askers[i].lock, NULL);
		d->askers[i].fd = -1;
	}
}

void mig_dest_fini_askers(struct mig_dest *d)
{
	for (unsigned int i = 0; i < PROTO_CHANNELS_MAX; i++)
		pthread_mutex_destroy(&d->askers[i].lock);
}

static void set_fd(struct mig_asker *a, int fd)
{
	pthread_mutex_lock(&a->lock);
	a->fd = fd;
	pthread_mutex_unlock(&a->lock);
}

void mig_dest_open_askers(struct mig_dest *d)
{
	const struct mig_session *s = d->session;

	for (unsigned int i = 0; i < s->fault_channels; i++)
		set_fd(&d->askers[i], s->fault_fds[i]);
	atomic_store(&d->nr_askers, s->fault_channels);
}

void mig_dest_close_askers(struct mig_dest *d)
{
	for (unsigned int i = 0; i < PROTO_CHANNELS_MAX; i++)
		set_fd(&d->askers[i], -1);
}

/* What a fault thread asks for is on the fill's list (block.h). */
static bool lies_in_a_block(struct mig_dest *d, uint64_t page)
{
	unsigned int i = 0;

	while (i < PROTO_CHANNELS_MAX && !mig_block_give(&d->blocks[i], page))
		i++;
	return i < PROTO_CHANNELS_MAX;
}

/*
 * Blocks at most as long as the socket's buffer is full of requests, and there
 * are never more of them than threads that can fault. A request that is lost
 * with the link is made again after the rejoin (mig_fill_want_again).
 */
void mig_dest_want(void *dest, uint64_t page)
{
	struct proto_batch b = { .type = PROTO_BATCH_WANT, .nr_runs = 1 };
	uint8_t head[PROTO_BATCH_HEAD_MAX];
	struct mig_dest *d = dest;
	uint64_t stripe = page / STRIPE_PAGES;
	struct mig_asker *a = &d->askers[stripe % atomic_load(&d->nr_askers)];
	size_t bytes;

	if (lies_in_a_block(d, page))
		return;
	b.runs[0] = (struct proto_run){ .first_page = page, .nr_pages = 1 };
	bytes = proto_batch_encode(&b, head);
	pthread_mutex_lock(&a->lock);
	/* The receiver of this connection notices, and breaks the session. */
	if (a->fd >= 0 && mig_net_write(a->fd, head, bytes) < 0)
		shutdown(a->fd, SHUT_RDWR);
	pthread_mutex_unlock(&a->lock);
}
