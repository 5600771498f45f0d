// Plots of days, by uPlot, in the page's own colours; the same numbers are there as a table.

import uPlot from "./vendor/uPlot.esm.js";
import { empty, h, put } from "./dom.js";

const HEIGHT = 190;

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// `series`: [{ name, colour, value: (day) => number | null, told: (number) => text }]
export function plot(place, title, days, series) {
  const data = [
    days.map((day) => Date.parse(`${day.date}T00:00:00Z`) / 1000),
    ...series.map((each) => days.map((day) => each.value(day))),
  ];
  if (!series.some((each, n) => data[n + 1].some((value) => value !== null && value !== undefined))) {
    place.forget?.();
    return put(place, h("h3", {}, title), empty("Nothing in these days."));
  }
  if (place.plot && place.plot.series.length === data.length) {
    place.plot.setData(data);
    place.table(days);
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
            h("th", { scope: "col" }, "Day"),
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
        rows.toReversed().map((day) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, day.date),
            series.map((each) => h("td", {}, told(each.value(day), each))),
          ),
        ),
      );
  };
  table.addEventListener("toggle", () => table.open && place.table(place.rows));
  put(place, h("h3", {}, title), canvas, table);
  place.table(days);
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
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "UTC"),
      cursor: { points: { size: 6 } },
      scales: { y: { range: (_, __, most) => [0, Math.max(1, most * 1.1)] } },
      axes: [
        axis,
        { ...axis, size: 58, values: (_, values) => values.map((value) => series[0].told(value)) },
      ],
      series: [
        { label: "Day", value: (_, at) => (at ? new Date(at * 1000).toISOString().slice(0, 10) : "–") },
        ...series.map((each) => ({
          label: each.name,
          stroke: colour(each.colour),
          width: 2,
          points: { show: each.isGappy ?? days.length < 3, size: 4 },
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
