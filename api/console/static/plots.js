// Plots over time, by uPlot, in the page's own colours; the same numbers are there as a table.

import uPlot from "./vendor/uPlot.esm.js";
import { empty, h, put } from "./dom.js";

const HEIGHT = 190;
const LEAST_SECONDS = 60; // of time, over which moments are shown

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// What a plot is over: when each of its rows is, in seconds since 1970, and how that is told.
const DAYS = {
  name: "Day",
  none: "Nothing in these days.",
  at: (row) => Date.parse(`${row.date}T00:00:00Z`) / 1000,
  told: (seconds) => new Date(seconds * 1000).toISOString().slice(0, 10),
  dated: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "UTC"),
  range: undefined, // as many as there are
};
const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
export const MOMENTS = {
  name: "Time",
  none: "It is watched from now on.",
  at: (row) => row.at,
  told: (seconds) => clock.format(new Date(seconds * 1000)),
  dated: (seconds) => new Date(seconds * 1000),
  range: (_, first, last) => [Math.min(first, last - LEAST_SECONDS), last],
};

// `series`: [{ name, colour, value: (row) => number | null, told: (number) => text }]
export function plot(place, title, rows, series, over = DAYS) {
  const data = [rows.map(over.at), ...series.map((each) => rows.map(each.value))];
  if (!series.some((each, n) => data[n + 1].some((value) => value !== null && value !== undefined))) {
    place.forget?.();
    return put(place, h("h3", {}, title), empty(over.none));
  }
  if (place.plot && place.plot.series.length === data.length) {
    place.plot.setData(data);
    place.table(rows);
    return;
  }
  const canvas = h("div", { class: "canvas", "aria-hidden": "true" });
  const told = (value, each) => (value === null || value === undefined ? "–" : each.told(value));
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
            series.map((each) => h("td", {}, told(each.value(row), each))),
          ),
        ),
      );
  };
  table.addEventListener("toggle", () => table.open && place.table(place.rows));
  put(place, h("h3", {}, title), canvas, table);
  place.table(rows);
  const axis = {
    stroke: colour("--quiet"),
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { show: false },
    font: "12px system-ui",
  };
  place.plot = new uPlot(
    {
      width: Math.max(canvas.clientWidth, 240),
      height: HEIGHT,
      tzDate: over.dated,
      cursor: { points: { size: 6 } },
      scales: { x: { range: over.range }, y: { range: (_, __, most) => [0, Math.max(1, most * 1.1)] } },
      axes: [
        axis,
        { ...axis, size: 58, values: (_, values) => values.map((value) => series[0].told(value)) },
      ],
      series: [
        { label: over.name, value: (_, at) => (at ? over.told(at) : "–") },
        ...series.map((each) => ({
          label: each.name,
          stroke: colour(each.colour),
          width: 2,
          points: { show: (u) => each.isGappy ?? u.data[0].length < 3, size: 4 },
          value: (_, value) => told(value, each),
        })),
      ],
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
