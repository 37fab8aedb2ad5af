/** One line of the table. */
export interface Figure {
  what: string;
  measured: string;
  /** What was to be reached; absent, the figure is for information. */
  goal?: string;
  isMet?: boolean;
  /** What may be compared with another run's, on another machine: how many times a reference it is, more being better. */
  ratio?: number;
}

export function median(numbers: readonly number[]): number {
  const sorted = numbers.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1
    ? (sorted[middle] as number)
    : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2;
}

export const quantile = (numbers: readonly number[], q: number): number =>
  numbers.toSorted((a, b) => a - b)[Math.min(numbers.length - 1, Math.floor(q * numbers.length))] as number;

/**
 * How `measured` stands to `reference`, round by round: two figures taken right after one another share the machine's
 * mood, so the median of their ratios says more than the ratio of their medians.
 */
export function ratio(what: string, measured: readonly number[], reference: readonly number[], goal: number): Figure {
  const value = median(measured.map((n, i) => n / (reference[i] as number)));
  return { what, measured: value.toFixed(2), goal: `≥ ${goal}`, isMet: value >= goal, ratio: value };
}

const digits = (value: number): string => value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0);

/** A figure that is to be small. */
export const atMost = (what: string, value: number, goal: number, unit = ""): Figure => {
  const suffix = unit === "" ? "" : ` ${unit}`;
  return { what, measured: `${digits(value)}${suffix}`, goal: `≤ ${goal}${suffix}`, isMet: value <= goal };
};

export const inform = (what: string, value: number, unit: string): Figure => ({
  what,
  measured: `${value < 1_000 ? digits(value) : Math.round(value).toLocaleString("en")} ${unit}`,
});

export const rate = (what: string, perSecond: readonly number[], unit: string): Figure => ({
  what,
  measured: `${Math.round(median(perSecond)).toLocaleString("en")} ${unit}`,
});

const markOf = ({ isMet }: Figure): string => (isMet === undefined ? "" : isMet ? "met" : "NOT MET");

/** The figures as a table in Markdown, aligned so that it reads well in a terminal too. */
export function renderTable(figures: readonly Figure[]): string {
  const rows = [
    ["", "measured", "goal", ""],
    ...figures.map((figure) => [figure.what, figure.measured, figure.goal ?? "", markOf(figure)]),
  ];
  const widths = [0, 1, 2, 3].map((column) => Math.max(...rows.map((row) => (row[column] as string).length)));
  const line = (row: string[]): string => `| ${row.map((cell, i) => cell.padEnd(widths[i] as number)).join(" | ")} |`;
  const [head = [], ...body] = rows;
  return [line(head), line(widths.map((width) => "-".repeat(width))), ...body.map(line)].join("\n");
}
