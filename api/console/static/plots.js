// Plots over time, by uPlot, in the page's own colours; the same numbers are there as a table.

import uPlot from "./vendor/uPlot.esm.js";
import { duration, empty, h, number, put } from "./dom.js";

const HEIGHT = 190;
const LEAST_SECONDS = 60; // of time, over which moments are shown
const FEW = 31; // points, each of which is drawn
const DAY = 86400;

export const span = (seconds) => (seconds > 0 && seconds < 1 ? "< 1 s" : duration(seconds));

const whole = Array.from({ length: 12 }, (_, n) => [1, 2, 5].map((m) => m * 10 ** n)).flat();

// What is measured: how it is told, and what may lie between two ticks of its axis.
export const COUNTS = { told: number, steps: whole };
export const RATES = { told: (n) => n.toFixed(1), tick: number, steps: [0.1, 0.2, 0.5, ...whole] };
export const TIMES = {
  told: span,
  steps: [
    ...[1, 2, 5, 10, 15, 30].flatMap((n) => [n, n * 60]),
    ...[1, 2, 3, 6, 12].map((n) => n * 3600),
    ...[1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000].map((n) => n * DAY),
  ].sort((a, b) => a - b),
};

// What a plot is over: when each of its rows is, in seconds since 1970, and how that is told.
const short = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
const year = (seconds) => new Date(seconds * 1000).getUTCFullYear();
const DAYS = {
  name: "Day",
  none: "Nothing in these days.",
  at: (row) => Date.parse(`${row.date}T00:00:00Z`) / 1000,
  told: (seconds) => new Date(seconds * 1000).toISOString().slice(0, 10),
  dated: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "UTC"),
  range: (first, last) => [first - DAY / 2, last + DAY / 2],
  axis: {
    incrs: [1, 2, 3, 7, 14, 30, 60, 90, 180, 365, 730, 1825, 3650].map((days) => days * DAY),
    values: (_, ticks) =>
      ticks.map((at, n) => {
        const day = short.format(new Date(at * 1000));
        return n && year(ticks[n - 1]) === year(at) ? day : `${day}\n${year(at)}`;
      }),
  },
};
const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const clockTime = (seconds) => clock.format(new Date(seconds * 1000));
export const MOMENTS = {
  name: "Time",
  none: "It is watched from now on.",
  at: (row) => row.at,
  told: clockTime,
  dated: (seconds) => new Date(seconds * 1000),
  range: (first, last) => [Math.min(first, last - LEAST_SECONDS), last],
  axis: { space: 80, incrs: [1, 5, 10, 15, 30, 60, 120, 300], values: (_, ticks) => ticks.map(clockTime) },
};

// `series`: [{ name, colour, value: (row) => number | null }], all in one measure.
export function plot(place, title, rows, series, measure, over = DAYS) {
  const data = [rows.map(over.at), ...series.map((each) => rows.map(each.value))];
  if (!series.some((each, n) => data[n + 1].some((value) => value !== null && value !== undefined))) {
    place.forget?.();
    return put(place, h("h3", {}, title), empty(over.none));
  }
  if (place.plot && place.plot.series.length === data.length) {
    place.plot.setData(data);
    place.plot.setLegend({ idx: place.plot.cursor.idx ?? null });
    place.table(rows);
    return;
  }
  const canvas = h("div", { class: "canvas", "aria-hidden": "true" });
  const told = (value) => (value === null || value === undefined ? "none" : measure.told(value));
  const body = h("tbody");
  const table = h(
    "details",
    { class: "numbers" },
    h("summary", {}, "As a table"),
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": `${title}, as a table` },
      h(
        "table",
        {},
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("th", { scope: "col" }, over.name),
            series.map((each) => h("th", { scope: "col" }, each.name)),
          ),
        ),
        body,
      ),
    ),
  );
  place.table = (rows) => {
    place.rows = rows;
    if (table.open)
      put(
        body,
        rows.toReversed().map((row) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, over.told(over.at(row))),
            series.map((each) => h("td", {}, told(each.value(row)))),
          ),
        ),
      );
  };
  table.addEventListener("toggle", () => table.open && place.table(place.rows));
  put(place, h("h3", {}, title), canvas, table);
  place.table(rows);
  const colour = (name) => getComputedStyle(place).getPropertyValue(name).trim();
  const axis = {
    stroke: colour("--quiet"),
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { show: false },
    font: "12px system-ui",
  };
  // Of one point uPlot takes the axis to be years long.
  const extent = (u, first, last) => over.range(first, u.data[0].length > 1 ? last : first);
  // While nobody points at a moment, the last one is told.
  const last = (u, n, value, at) => (at === null ? u.data[n].at(-1) : value);
  place.plot = new uPlot(
    {
      width: Math.max(canvas.clientWidth, 240),
      height: HEIGHT,
      tzDate: over.dated,
      cursor: { points: { size: 6 } },
      scales: { x: { range: extent }, y: { range: (_, __, most) => [0, Math.max(1, most * 1.1)] } },
      axes: [
        { ...axis, ...over.axis },
        {
          ...axis,
          size: 74,
          incrs: measure.steps,
          values: (_, ticks) => ticks.map(measure.tick ?? measure.told),
        },
      ],
      series: [
        { label: over.name, value: (u, at, n, index) => over.told(last(u, n, at, index)) },
        ...series.map((each) => ({
          label: each.name,
          stroke: colour(each.colour),
          width: 2,
          points: { show: (u) => each.isGappy || u.data[0].length <= FEW, size: 4 },
          value: (u, value, n, index) => told(last(u, n, value, index)),
        })),
      ],
      hooks: { ready: [(u) => u.setLegend({ idx: null })] },
    },
    data,
    canvas,
  );
  const resized = new ResizeObserver(() =>
    place.plot.setSize({ width: Math.max(canvas.clientWidth, 240), height: HEIGHT }),
  );
  resized.observe(canvas);
  place.forget = () => {
    resized.disconnect();
    place.plot.destroy();
    place.plot = place.forget = null;
  };
}
