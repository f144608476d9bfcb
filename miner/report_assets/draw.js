"use strict";

// How plots are drawn: SVG in the page's own colours, by classes alone. Text goes in as text.

const Draw = {
  SVG: "http://www.w3.org/2000/svg",

  make(tag, attributes = {}, ...children) {
    const made = document.createElementNS(Draw.SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  },

  text(said, x, y, attributes = {}) {
    return Draw.make("text", { x, y, ...attributes }, said);
  },

  number: (value) => value.toLocaleString("en"),

  // Short for an axis: 12,000 as 12k.
  short(value) {
    if (value >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
    return value >= 1e4 ? `${+(value / 1e3).toPrecision(3)}k` : Draw.number(value);
  },

  decimals: (step) => Math.max(0, Math.ceil(-Math.log10(step) - 1e-9)),

  // Round numbers from low to high, about as many as asked for.
  ticks(low, high, wanted) {
    const rough = (high - low) / Math.max(1, wanted), power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough * 0.999);
    const places = Draw.decimals(step), found = [];
    for (let at = Math.ceil(low / step - 1e-6); at * step <= high + step * 1e-6; at += 1) {
      found.push(Number((at * step).toFixed(places)));
    }
    return { step, places, values: found };
  },

  powers(most) {
    const found = [];
    for (let value = 1; value <= most * 1.0001; value *= 10) found.push(value);
    const every = Math.ceil(found.length / 5);
    return found.filter((_, at) => at % every === 0);
  },

  linear: (from, to, start, end) => (value) => start + (end - start) * (value - from) / (to - from),

  // A value of 0 lies at the axis, one of 1 a little above it, so that both can be told apart.
  logarithmic(most, start, end) {
    const whole = Math.log10(Math.max(most, 10)) + 0.3;
    return (value) => (value < 1 ? start : start + (end - start) * (Math.log10(value) + 0.3) / whole);
  },

  frame(area, height, said) {
    const width = Math.max(200, Math.floor(area.clientWidth));
    const svg = Draw.make("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
    svg.setAttribute("aria-label", said);
    area.replaceChildren(svg);
    return { svg, width, height };
  },

  // Lines across at the values of the vertical axis, with their numbers.
  across(svg, values, y, left, right, show) {
    for (const value of values) {
      svg.append(
        Draw.make("line", { class: "grid-line", x1: left, x2: right, y1: y(value), y2: y(value) }),
        Draw.text(show(value), left - 6, y(value) + 4, { class: "tick", "text-anchor": "end" }),
      );
    }
  },

  below(svg, values, x, bottom, show) {
    for (const value of values) {
      svg.append(Draw.text(show(value), x(value), bottom + 16, { class: "tick", "text-anchor": "middle" }));
    }
  },

  name(svg, said, x, y, anchor = "middle") {
    svg.append(Draw.text(said, x, y, { class: "axis-name", "text-anchor": anchor }));
  },
};
