/*
 * vmm/serial.c: a 16550A UART at COM1 (ports 0x3f8 to 0x3ff, GSI 4).
 *
 * Registers and their bits are the 16550A data sheet's, under the names of
 * linux/serial_reg.h. Time does not pass: a byte is sent the moment the sink
 * takes it, and there is no character timeout because the receiver interrupts
 * from the first byte on, whatever trigger level is set.
 *
 * Threads: registers on vCPU threads, vm_serial_*() on the main thread; all
 * under the device's lock.
 */
#include "vmm/vm_internal.h"

#include <errno.h>
#include <linux/serial_reg.h>
#include <stdlib.h>
#include <string.h>

#define SERIAL_PORT       0x3f8
#define SERIAL_PORTS      8
#define SERIAL_GSI        4
#define SERIAL_FIFO_BYTES 16

#define IER_BITS         0x0f
#define MCR_BITS         0x1f
#define IIR_FIFO_ENABLED 0xc0
#define LSR_ERRORS       UART_LSR_OE /* the one that can happen here */
/* A cable that is plugged in. */
#define MSR_CONNECTED   (UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS)
#define MSR_LINES       0xf0
#define MSR_DELTA_SHIFT 4

struct serial_state {
	uint8_t ier, fcr, lcr, mcr, scr, dll, dlm;
	uint8_t errors;    /* of LSR, until read */
	uint8_t delta;     /* of MSR, until read */
	uint8_t thre_told; /* 0: a THRE interrupt is due */
	uint8_t rx_bytes;
	uint8_t tx_bytes; /* 0 unless the sink is full */
	uint8_t rx[SERIAL_FIFO_BYTES];
	uint8_t tx[SERIAL_FIFO_BYTES];
};

struct serial {
	struct vm_device device;
	struct serial_state s;
	int irq_level; /* as last told to KVM */
	bool at_rest; /* may have been saved: takes no input, gives no output */
};

static struct serial *to_serial(struct vm_device *d)
{
	return (struct serial *)d;
}

static size_t fifo_bytes(const struct serial_state *s)
{
	return s->fcr & UART_FCR_ENABLE_FIFO ? SERIAL_FIFO_BYTES : 1;
}

/* The highest of the causes that are both there and enabled. */
static uint8_t interrupt_id(const struct serial_state *s)
{
	if ((s->ier & UART_IER_RLSI) && s->errors)
		return UART_IIR_RLSI;
	if ((s->ier & UART_IER_RDI) && s->rx_bytes)
		return UART_IIR_RDI;
	if ((s->ier & UART_IER_THRI) && !s->tx_bytes && !s->thre_told)
		return UART_IIR_THRI;
	if ((s->ier & UART_IER_MSI) && s->delta)
		return UART_IIR_MSI;
	return UART_IIR_NO_INT;
}

/* On a PC, OUT2 connects the UART to its interrupt line; loopback cuts it. */
static void update_irq(struct serial *u)
{
	int level = interrupt_id(&u->s) != UART_IIR_NO_INT &&
		    (u->s.mcr & UART_MCR_OUT2) && !(u->s.mcr & UART_MCR_LOOP);

	if (level == u->irq_level)
		return;
	u->irq_level = level;
	vm_irq_set(u->device.vm, SERIAL_GSI, level);
}

static uint8_t modem_lines(const struct serial_state *s)
{
	uint8_t lines = 0;

	if (!(s->mcr & UART_MCR_LOOP))
		return MSR_CONNECTED;
	if (s->mcr & UART_MCR_DTR)
		lines |= UART_MSR_DSR;
	if (s->mcr & UART_MCR_RTS)
		lines |= UART_MSR_CTS;
	if (s->mcr & UART_MCR_OUT1)
		lines |= UART_MSR_RI;
	if (s->mcr & UART_MCR_OUT2)
		lines |= UART_MSR_DCD;
	return lines;
}

static void write_mcr(struct serial_state *s, uint8_t value)
{
	uint8_t before = modem_lines(s), changed;

	s->mcr = value & MCR_BITS;
	changed = before ^ modem_lines(s);
	/* Of the ring indicator only its end is reported. */
	if (!(before & UART_MSR_RI))
		changed &= (uint8_t)~UART_MSR_RI;
	s->delta |= changed >> MSR_DELTA_SHIFT;
}

static void receive(struct serial_state *s, uint8_t byte)
{
	if (s->rx_bytes < fifo_bytes(s)) {
		s->rx[s->rx_bytes++] = byte;
		return;
	}
	s->errors |= UART_LSR_OE;
	if (!(s->fcr & UART_FCR_ENABLE_FIFO))
		s->rx[0] = byte; /* without a FIFO the newer byte wins */
}

static uint8_t take_received(struct serial_state *s)
{
	uint8_t byte = s->rx[0];

	if (s->rx_bytes > 0) {
		s->rx_bytes--;
		memmove(s->rx, s->rx + 1, s->rx_bytes);
	}
	return byte;
}

/*
 * Invariant: tx holds only bytes that the sink would not take. A guest that
 * writes without looking at THRE loses what exceeds the FIFO, as on hardware.
 */
static void transmit(struct serial *u, uint8_t byte)
{
	struct vm *vm = u->device.vm;
	struct serial_state *s = &u->s;

	if (s->mcr & UART_MCR_LOOP)
		receive(s, byte);
	else if (s->tx_bytes > 0 ||
		 vm->ops->serial_output(vm->ctx, &byte, 1) == 0) {
		if (s->tx_bytes < fifo_bytes(s))
			s->tx[s->tx_bytes++] = byte;
	}
	s->thre_told = 0;
}

static void write_ier(struct serial_state *s, uint8_t value)
{
	/* Enabling the interrupt of an empty transmitter raises it at once. */
	if ((value & UART_IER_THRI) && !(s->ier & UART_IER_THRI))
		s->thre_told = 0;
	s->ier = value & IER_BITS;
}

static void write_fcr(struct serial_state *s, uint8_t value)
{
	if ((s->fcr ^ value) & UART_FCR_ENABLE_FIFO)
		value |= UART_FCR_CLEAR_RCVR | UART_FCR_CLEAR_XMIT;
	if (value & UART_FCR_CLEAR_RCVR)
		s->rx_bytes = 0;
	if ((value & UART_FCR_CLEAR_XMIT) && s->tx_bytes > 0) {
		s->tx_bytes = 0;
		s->thre_told = 0;
	}
	s->fcr = value & UART_FCR_ENABLE_FIFO;
}

static void write_register(struct serial *u, uint64_t reg, uint8_t value)
{
	struct serial_state *s = &u->s;
	bool dlab = s->lcr & UART_LCR_DLAB;

	switch (reg) {
	case UART_TX:
		if (dlab)
			s->dll = value;
		else
			transmit(u, value);
		break;
	case UART_IER:
		if (dlab)
			s->dlm = value;
		else
			write_ier(s, value);
		break;
	case UART_FCR:
		write_fcr(s, value);
		break;
	case UART_LCR:
		s->lcr = value;
		break;
	case UART_MCR:
		write_mcr(s, value);
		break;
	case UART_SCR:
		s->scr = value;
		break;
	default: /* LSR and MSR only read */
		break;
	}
}

static uint8_t read_iir(struct serial_state *s)
{
	uint8_t id = interrupt_id(s);

	if (id == UART_IIR_THRI)
		s->thre_told = 1; /* reading it is the acknowledgement */
	if (s->fcr & UART_FCR_ENABLE_FIFO)
		id |= IIR_FIFO_ENABLED;
	return id;
}

static uint8_t read_lsr(struct serial_state *s)
{
	uint8_t value = s->errors;

	if (s->rx_bytes > 0)
		value |= UART_LSR_DR;
	if (s->tx_bytes == 0)
		value |= UART_LSR_THRE | UART_LSR_TEMT;
	s->errors = 0;
	return value;
}

static uint8_t read_msr(struct serial_state *s)
{
	uint8_t value = modem_lines(s) | s->delta;

	s->delta = 0;
	return value;
}

static uint8_t read_register(struct serial_state *s, uint64_t reg)
{
	bool dlab = s->lcr & UART_LCR_DLAB;

	switch (reg) {
	case UART_RX:
		return dlab ? s->dll : take_received(s);
	case UART_IER:
		return dlab ? s->dlm : s->ier;
	case UART_IIR:
		return read_iir(s);
	case UART_LCR:
		return s->lcr;
	case UART_MCR:
		return s->mcr;
	case UART_LSR:
		return read_lsr(s);
	case UART_MSR:
		return read_msr(s);
	default:
		return s->scr;
	}
}

/*
 * A wide access to a byte-wide chip becomes one access for each port. The bus
 * passes on only what lies within the range.
 */
static void serial_read(struct vm_device *d, unsigned int range,
			uint64_t offset, uint8_t *data, unsigned int bytes)
{
	struct serial *u = to_serial(d);
	unsigned int i;

	(void)range;
	for (i = 0; i < bytes; i++)
		data[i] = read_register(&u->s, offset + i);
	update_irq(u);
}

static void serial_write(struct vm_device *d, unsigned int range,
			 uint64_t offset, const uint8_t *data,
			 unsigned int bytes)
{
	struct serial *u = to_serial(d);
	unsigned int i;

	(void)range;
	for (i = 0; i < bytes; i++)
		write_register(u, offset + i, data[i]);
	update_irq(u);
}

static void serial_reset(struct vm_device *d)
{
	struct serial *u = to_serial(d);

	u->s = (struct serial_state){ .thre_told = 1, .dll = 1 };
	update_irq(u);
}

#define FIELD(_id, _kind, _member)                                             \
	VM_FIELD(_id, VM_FIELD_##_kind, struct serial_state, _member)

static const struct vm_field serial_fields[] = {
	FIELD(1, UINT, ier),       FIELD(2, UINT, fcr),
	FIELD(3, UINT, lcr),       FIELD(4, UINT, mcr),
	FIELD(5, UINT, scr),       FIELD(6, UINT, dll),
	FIELD(7, UINT, dlm),       FIELD(8, UINT, errors),
	FIELD(9, UINT, delta),     FIELD(10, UINT, thre_told),
	FIELD(11, UINT, rx_bytes), FIELD(12, UINT, tx_bytes),
	FIELD(13, BYTES, rx),      FIELD(14, BYTES, tx),
};

static void serial_save(struct vm_device *d, void *state)
{
	*(struct serial_state *)state = to_serial(d)->s;
}

static int serial_load(struct vm_device *d, const void *state)
{
	const struct serial_state *s = state;
	struct serial *u = to_serial(d);

	if ((s->ier & ~IER_BITS) || (s->fcr & ~UART_FCR_ENABLE_FIFO) ||
	    (s->mcr & ~MCR_BITS) || (s->errors & ~LSR_ERRORS) ||
	    (s->delta & MSR_LINES) || s->thre_told > 1 ||
	    s->rx_bytes > fifo_bytes(s) || s->tx_bytes > fifo_bytes(s))
		return -EINVAL;
	u->s = *s;
	/* Always said: KVM's side of the line may be anything. */
	u->irq_level = -1;
	update_irq(u);
	return 0;
}

static void serial_free(struct vm_device *d)
{
	free(to_serial(d));
}

/* What the sink had no room for. Device lock. */
static void send_kept(struct serial *u)
{
	struct serial_state *s = &u->s;
	struct vm *vm = u->device.vm;
	size_t sent;

	if (s->tx_bytes == 0)
		return;
	sent = vm->ops->serial_output(vm->ctx, s->tx, s->tx_bytes);
	s->tx_bytes -= (uint8_t)sent;
	memmove(s->tx, s->tx + sent, s->tx_bytes);
	if (s->tx_bytes == 0)
		s->thre_told = 0;
	update_irq(u);
}

static void serial_stop(struct vm_device *d)
{
	pthread_mutex_lock(&d->lock);
	to_serial(d)->at_rest = true;
	pthread_mutex_unlock(&d->lock);
}

/* That there is room may have been said at rest, when nobody listened. */
static void serial_start(struct vm_device *d)
{
	pthread_mutex_lock(&d->lock);
	to_serial(d)->at_rest = false;
	send_kept(to_serial(d));
	pthread_mutex_unlock(&d->lock);
}

static const struct vm_device_ops serial_ops = {
	.name = "serial0",
	.read = serial_read,
	.write = serial_write,
	.reset = serial_reset,
	.fields = serial_fields,
	.nr_fields = sizeof(serial_fields) / sizeof(serial_fields[0]),
	.state_bytes = sizeof(struct serial_state),
	.save = serial_save,
	.load = serial_load,
	.stop = serial_stop,
	.start = serial_start,
	.free = serial_free,
};

int vm_serial_new(struct vm *vm, struct vm_device **ret_device)
{
	struct serial *u = calloc(1, sizeof(*u));

	(void)vm;
	if (!u)
		return -ENOMEM;
	u->device.ops = &serial_ops;
	u->at_rest = true;
	u->device.ranges[0] = (struct vm_device_range){ VM_BUS_PIO, SERIAL_PORT,
							SERIAL_PORTS };
	u->device.nr_ranges = 1;
	*ret_device = &u->device;
	return 0;
}

size_t vm_serial_input(struct vm *vm, const uint8_t *data, size_t bytes)
{
	struct serial *u = to_serial(vm->serial);
	size_t taken = 0;

	pthread_mutex_lock(&u->device.lock);
	/* In loopback the receiver is cut off from the line. */
	while (!u->at_rest && taken < bytes &&
	       u->s.rx_bytes < fifo_bytes(&u->s) && !(u->s.mcr & UART_MCR_LOOP))
		receive(&u->s, data[taken++]);
	update_irq(u);
	pthread_mutex_unlock(&u->device.lock);
	return taken;
}

void vm_serial_output_ready(struct vm *vm)
{
	struct serial *u = to_serial(vm->serial);

	pthread_mutex_lock(&u->device.lock);
	if (!u->at_rest)
		send_kept(u);
	pthread_mutex_unlock(&u->device.lock);
}
