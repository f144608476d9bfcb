"use strict";

// The plots below the hexbin. They are made when somebody opens them, so no pair waits for them.

document.addEventListener("DOMContentLoaded", () => {
  const details = document.getElementById("plots"), key = "blindpairs-plots";
  let isMade = false;
  details.addEventListener("toggle", () => {
    try { localStorage.setItem(key, details.open ? "open" : "closed"); } catch { /* not here */ }
    if (!details.open || isMade) return;
    isMade = true;
    const data = JSON.parse(document.getElementById("plots-data").textContent);
    makeCorner(data.corner);
    makePlots(data.plots);
  });
  // The page's keys for pairs would keep these from the place that has the focus.
  details.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") event.stopPropagation();
  });
  // This, too, is a toggle.
  try { details.open = localStorage.getItem(key) === "open"; } catch { /* not here */ }
});

// Columns, curves and bars, drawn anew when their place gets wider or narrower.
function makePlots(drawings) {
  const HEIGHT = 220, LEFT = 46, RIGHT = 12, TOP = 12, BOTTOM = 42;

  const titleOf = (area) => area.parentElement.querySelector("h3").textContent;

  function axes(area, drawing) {
    const { svg, width } = Draw.frame(area, HEIGHT, titleOf(area));
    const right = width - RIGHT, bottom = HEIGHT - BOTTOM;
    Draw.name(svg, drawing.axis, (LEFT + right) / 2, HEIGHT - 6);
    return { svg, right, bottom, wanted: Math.max(3, Math.floor((right - LEFT) / 70)) };
  }

  function column(svg, x, width, y, bottom, said) {
    const bar = Draw.make("rect", { class: "mark-bar", x, y, width, height: Math.max(0, bottom - y) });
    bar.append(Draw.make("title", {}, said));
    svg.append(bar);
  }

  // Drawings by kind. `columns`: [from, to, count] along a number.
  function columns(area, drawing) {
    const bars = drawing.columns;
    if (!bars.length) return;
    const { svg, right, bottom, wanted } = axes(area, drawing);
    const low = bars[0][0], high = bars[bars.length - 1][1];
    const x = Draw.linear(low, high, LEFT, right);
    const scale = Draw.ticks(0, Math.max(...bars.map((bar) => bar[2])), 4);
    const y = Draw.linear(0, Math.max(...bars.map((bar) => bar[2])), bottom, TOP);
    Draw.across(svg, scale.values.filter(Number.isInteger), y, LEFT, right, Draw.short);
    for (const [from, to, count] of bars) {
      const said = `${from} to ${to}: ${Draw.number(count)} ${drawing.unit}`;
      column(svg, x(from) + 0.5, Math.max(1, x(to) - x(from) - 1), y(count), bottom, said);
    }
    const along = Draw.ticks(low, high, wanted);
    Draw.below(svg, along.values, x, bottom, (value) => value.toFixed(along.places));
  }

  // `ranges`: [label, count] side by side, by the logarithm of the count.
  function ranges(area, drawing) {
    const bars = drawing.columns;
    if (!bars.length) return;
    const { svg, right, bottom } = axes(area, drawing);
    const most = Math.max(...bars.map((bar) => bar[1])), width = (right - LEFT) / bars.length;
    const y = Draw.logarithmic(most, bottom, TOP + 14);
    Draw.across(svg, Draw.powers(most), y, LEFT, right, Draw.short);
    bars.forEach(([label, count], at) => {
      const left = LEFT + at * width, middle = left + width / 2;
      const said = `in ${label} pairs: ${Draw.number(count)} images`;
      column(svg, left + width * 0.12, width * 0.76, y(count), bottom, said);
      svg.append(
        Draw.text(Draw.short(count), middle, y(count) - 4, { class: "value", "text-anchor": "middle" }),
        Draw.text(label, middle, bottom + 16, { class: "tick", "text-anchor": "middle" }),
      );
    });
  }

  // `curves`: what each threshold leaves, as steps.
  function curves(area, drawing) {
    const series = drawing.series.filter((each) => each.points.length);
    const points = series.flatMap((each) => each.points);
    if (!points.length) return;
    const { svg, right, bottom, wanted } = axes(area, drawing);
    const at = points.map((point) => point[0]);
    const isAbove = drawing.sign === ">";
    const low = Math.min(...at, drawing.threshold), high = isAbove ? 1 : Math.max(...at, drawing.threshold);
    const most = Math.max(...points.map((point) => point[1]));
    const x = Draw.linear(low, Math.max(high, low + 1e-3), LEFT, right);
    const y = Draw.logarithmic(most, bottom, TOP);
    Draw.across(svg, Draw.powers(most), y, LEFT, right, Draw.short);
    const mark = x(drawing.threshold);
    svg.append(Draw.make("line", { class: "threshold", x1: mark, x2: mark, y1: TOP, y2: bottom }));
    series.forEach((each, place) => {
      const line = each.points.map(([value, count]) => `${x(value).toFixed(1)},${y(count).toFixed(1)}`);
      const kind = each.name.startsWith("blind") ? "curve-blind" : "curve-all";
      // It ends where the last count is: what lies beyond is not known.
      svg.append(Draw.make("path", { class: `curve ${kind}`, d: `M${line.join("L")}` }));
      // Where no curve is: below left of a falling one, below right of a rising one.
      const side = isAbove ? { x: mark + 8, anchor: "start" } : { x: mark - 8, anchor: "end" };
      svg.append(Draw.text(each.name, side.x, bottom - 26 + 17 * place, {
        class: `legend ${kind}`, "text-anchor": side.anchor,
      }));
    });
    const along = Draw.ticks(low, high, wanted);
    Draw.below(svg, along.values, x, bottom, (value) => value.toFixed(along.places));
  }

  // `bars`: labels with counts, one or several parts each. Labels may be hostile: text alone.
  function bars(area, drawing) {
    const total = (bar) => bar.counts.reduce((sum, count) => sum + count, 0);
    const most = Math.max(1, ...drawing.bars.map(total));
    const list = element("ol", "bars");
    for (const bar of drawing.bars) {
      const label = element("span", "bar-label"), track = element("span", "bar-track");
      label.dir = "auto";
      label.textContent = visible(bar.label);
      label.title = label.textContent;
      bar.counts.forEach((count, part) => {
        const fill = element("i", `part part-${part}`);
        fill.style.width = `${100 * count / most}%`;
        fill.title = `${drawing.parts[part]}: ${Draw.number(count)}`;
        if (count) track.append(fill);
      });
      const said = element("span", "bar-count", Draw.number(total(bar)));
      if (bar.note) said.append(element("small", "", bar.note));
      list.append(element("li", "", label, track, said));
    }
    const legend = element("p", "bar-legend");
    if (drawing.parts.length > 1) {
      drawing.parts.forEach((name, part) => {
        legend.append(element("span", "", element("i", `part part-${part}`), name));
      });
    }
    area.replaceChildren(...(drawing.parts.length > 1 ? [legend, list] : [list]));
  }

  const kinds = { columns, ranges, curves, bars };

  function draw(area) {
    const drawing = drawings[area.dataset.plot];
    kinds[drawing.kind](area, drawing);
    area.dataset.drawn = String(Math.floor(area.clientWidth));
  }

  const places = [...document.querySelectorAll("[data-plot]")];
  const watcher = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      if (target.clientWidth && target.dataset.drawn !== String(Math.floor(target.clientWidth))) draw(target);
    }
  });
  places.forEach((area) => watcher.observe(area));
}
