#include "console.h"

#include "machine.h"

#define PORT         0x3f8
#define DATA         (PORT + 0)
#define INTERRUPTS   (PORT + 1)
#define FIFO_CONTROL (PORT + 2) /* when written; interrupt identity when read */
#define LINE_CONTROL (PORT + 3)
#define MODEM        (PORT + 4)
#define LINE_STATUS  (PORT + 5)

#define STATUS_INPUT     0x01
#define STATUS_FIFO_FREE 0x20
#define STATUS_IDLE      0x40
#define IDENTITY_FIFO    0xc0

#define QUEUE_BYTES 16384u /* power of two */

/* Under lock, but for tail and room: the first vCPU's alone. */
static struct {
	volatile uint32_t lock;
	volatile uint32_t head;
	volatile uint32_t tail;
	uint32_t fifo_bytes;
	uint32_t room; /* bytes that the FIFO takes without being asked */
	char bytes[QUEUE_BYTES];
} queue;

static uint32_t crc32(const char *text, uint32_t len)
{
	uint32_t crc = ~0u;

	for (uint32_t i = 0; i < len; i++) {
		crc ^= (uint8_t)text[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
	}
	return ~crc;
}

static void line_char(struct line *l, char c)
{
	if (l->len < LINE_BYTES)
		l->text[l->len++] = c;
}

void line_str(struct line *l, const char *text)
{
	/* Room is kept for the sum. */
	while (*text && l->len < LINE_BYTES - 16)
		line_char(l, *text++);
}

void line_start(struct line *l, const char *text)
{
	l->len = 0;
	line_str(l, text);
}

void line_key(struct line *l, const char *key, const char *text)
{
	line_str(l, " ");
	line_str(l, key);
	line_str(l, "=");
	line_str(l, text);
}

void line_dec(struct line *l, const char *key, uint64_t value)
{
	char digits[21];
	char *p = digits + sizeof(digits);

	*--p = '\0';
	do {
		*--p = (char)('0' + value % 10);
		value /= 10;
	} while (value);
	line_key(l, key, p);
}

static void hex(uint64_t value, uint32_t nr_digits, char *ret_text)
{
	ret_text[nr_digits] = '\0';
	while (nr_digits-- > 0) {
		ret_text[nr_digits] = "0123456789abcdef"[value & 15];
		value >>= 4;
	}
}

void line_hex(struct line *l, const char *key, uint64_t value)
{
	char text[19] = "0x";
	uint32_t nr_digits = 1;

	while (nr_digits < 16 && value >> (4 * nr_digits))
		nr_digits++;
	hex(value, nr_digits, text + 2);
	line_key(l, key, text);
}

static void line_finish(struct line *l)
{
	char text[9];
	const char *p = text;

	hex(crc32(l->text, l->len), 8, text);
	for (const char *sum = " sum="; *sum; sum++)
		line_char(l, *sum);
	while (*p)
		line_char(l, *p++);
	line_char(l, '\n');
}

void line_send(struct line *l)
{
	uint32_t head;

	line_finish(l);
	while (__atomic_exchange_n(&queue.lock, 1, __ATOMIC_ACQUIRE))
		cpu_relax();
	head = queue.head;
	if (QUEUE_BYTES - (head - queue.tail) >= l->len) {
		for (uint32_t i = 0; i < l->len; i++)
			queue.bytes[head++ % QUEUE_BYTES] = l->text[i];
		__atomic_store_n(&queue.head, head, __ATOMIC_RELEASE);
	}
	__atomic_store_n(&queue.lock, 0, __ATOMIC_RELEASE);
}

void console_init(void)
{
	outb(INTERRUPTS, 0);
	outb(LINE_CONTROL, 0x80); /* the divisor: 115200 baud */
	outb(DATA, 1);
	outb(INTERRUPTS, 0);
	outb(LINE_CONTROL, 0x03); /* 8n1 */
	outb(FIFO_CONTROL, 0x07); /* on, both emptied */
	outb(MODEM, 0x03);
	queue.fifo_bytes = (inb(FIFO_CONTROL) & IDENTITY_FIFO) == IDENTITY_FIFO
				   ? 16
				   : 1;
}

bool console_pump(void)
{
	uint32_t head = __atomic_load_n(&queue.head, __ATOMIC_ACQUIRE);

	if (head == queue.tail)
		return false;
	if (queue.room == 0) {
		if (inb(LINE_STATUS) & STATUS_FIFO_FREE)
			queue.room = queue.fifo_bytes;
		return true;
	}
	queue.room--;
	outb(DATA, (uint8_t)queue.bytes[queue.tail++ % QUEUE_BYTES]);
	return true;
}

void console_flush(void)
{
	while (console_pump())
		;
	while (!(inb(LINE_STATUS) & STATUS_IDLE))
		cpu_relax();
}

int console_getc(void)
{
	return inb(LINE_STATUS) & STATUS_INPUT ? inb(DATA) : -1;
}

static void send_now(char c)
{
	while (!(inb(LINE_STATUS) & STATUS_FIFO_FREE))
		cpu_relax();
	outb(DATA, (uint8_t)c);
}

void console_emergency(struct line *l)
{
	line_finish(l);
	send_now('\n'); /* whatever was being sent ends here */
	for (uint32_t i = 0; i < l->len; i++)
		send_now(l->text[i]);
	while (!(inb(LINE_STATUS) & STATUS_IDLE))
		cpu_relax();
}
