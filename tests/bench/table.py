"""Rows of figures as a table: aligned, or as Markdown."""


def show(value):
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def print_table(columns, rows, markdown):
    """columns: (key of each row, title) in order."""
    lines = [[title for _, title in columns]]
    lines += [[show(row[key]) for key, _ in columns] for row in rows]
    if markdown:
        lines.insert(1, ["---"] * len(columns))
        for line in lines:
            print("| " + " | ".join(line) + " |")
        return
    widths = [max(map(len, column)) for column in zip(*lines)]
    for line in lines:
        print("  ".join(text.rjust(n) for text, n in zip(line, widths)))
