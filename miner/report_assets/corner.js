"use strict";

// The movable threshold corner: where the pairs lie, and how many each pair of thresholds keeps.
// Three kinds of counts, each where it is the best there is (miner/reporting/corner.py):
//   raw         its pairs one by one, in cells of the grid
//   candidates  beyond raw, by the histogram's bins
//   random      below the candidates' threshold, an estimate by the histogram's random pairs

class Counts {
  constructor(data) {
    Object.assign(this, data);
    this.scale = data.num_random ? data.num_pairs / data.num_random : 0;
    this.boxes = {
      raw: this.boxesOf(data.cells, data.clip_above, data.dino_below, data.step),
      candidates: this.boxesOf(data.candidates, 0, 0, data.bin_width, data.clip_above),
      random: this.boxesOf(data.random, 0, 0, data.bin_width),
    };
  }

  // [left, right, low, high, count] of flat (place, place, count); none lies below the floor.
  boxesOf(flat, left, low, step, floor = -Infinity) {
    const found = [];
    for (let at = 0; at < flat.length; at += 3) {
      const x = left + flat[at] * step, y = low + flat[at + 1] * step;
      found.push([Math.max(x, Math.min(floor, x + step / 2)), x + step, y, y + step, flat[at + 2]]);
    }
    return found;
  }

  clipAt(k) { return Number((this.clip_above + k * this.step).toFixed(9)); }

  dinoAt(m) { return Number((this.dino_below + m * this.step).toFixed(9)); }

  // Where the pairs of a cosine pair are counted.
  kindOf(clip, dino) {
    if (clip > this.reach[0] && dino < this.reach[1]) return "raw";
    return clip > this.clip_above ? "candidates" : "random";
  }

  within(kind, left, right, low, high) {
    if (right <= left || high <= low) return 0;
    let sum = 0;
    for (const [x0, x1, y0, y1, count] of this.boxes[kind]) {
      const wide = Math.min(x1, right) - Math.max(x0, left), tall = Math.min(y1, high) - Math.max(y0, low);
      if (wide > 0 && tall > 0) sum += count * wide * tall / ((x1 - x0) * (y1 - y0));
    }
    return sum;
  }

  // What CLIP > clipAt(k) and DINO < dinoAt(m) keep, by kind of count.
  kept(k, m) {
    const clip = this.clipAt(k), dino = this.dinoAt(m), [reachClip, reachDino] = this.reach;
    let raw = 0;
    for (let at = 0; at < this.cells.length; at += 3) {
      if (this.cells[at] >= k && this.cells[at + 1] < m) raw += this.cells[at + 2];
    }
    const candidates = this.within("candidates", Math.max(clip, this.clip_above), 2, reachDino, dino);
    const random = this.within("random", clip, reachClip, -2, dino)
      + this.within("random", Math.max(clip, reachClip), this.clip_above, reachDino, dino);
    const isBelow = clip < reachClip || (clip < this.clip_above && dino > reachDino);
    return {
      clip, dino, raw,
      candidates: Math.round(candidates),
      random: Math.round(Number((random * this.scale).toPrecision(2))),
      isExact: clip >= reachClip && dino <= reachDino,
      isUnknown: isBelow && !this.num_random,
    };
  }
}

class CornerPlot {
  constructor(area, counts) {
    Object.assign(this, { area, counts, left: 46, top: 10, height: 330 });
    const dinos = Object.values(counts.boxes).flat().map((box) => box[2]);
    const low = Math.floor(10 * dinos.reduce((a, b) => Math.min(a, b), counts.dino_below)) / 10;
    this.range = { clip: [counts.clip_from, 1], dino: [Math.max(-1, low), 1] };
  }

  draw(said) {
    const { svg, width, height } = Draw.frame(this.area, this.height, said);
    const right = width - 12, bottom = height - 42;
    this.svg = svg;
    this.x = Draw.linear(...this.range.clip, this.left, right);
    this.y = Draw.linear(...this.range.dino, bottom, this.top);
    this.clipOf = Draw.linear(this.left, right, ...this.range.clip);
    this.dinoOf = Draw.linear(bottom, this.top, ...this.range.dino);
    const up = Draw.ticks(...this.range.dino, 6);
    const along = Draw.ticks(...this.range.clip, Math.max(3, Math.floor((right - this.left) / 80)));
    Draw.across(svg, up.values, this.y, this.left, right, (value) => value.toFixed(up.places));
    Draw.below(svg, along.values, this.x, bottom, (value) => value.toFixed(along.places));
    Draw.name(svg, "CLIP cosine", (this.left + right) / 2, height - 6);
    svg.append(Draw.text("DINO cosine", 0, 0, {
      class: "axis-name", "text-anchor": "middle", transform: `translate(10 ${(this.top + bottom) / 2}) rotate(-90)`,
    }));
    this.hexagons(right, bottom);
    this.bounds = { right, bottom };
    this.kept = Draw.make("path", { class: "kept" });
    this.edge = Draw.make("path", { class: "edge" });
    this.handle = Draw.make("circle", { class: "handle", r: 9 });
    const own = this.cornerPath(this.counts.clip_above, this.counts.dino_below);
    svg.append(Draw.make("path", { class: "edge-join", d: own }), this.kept, this.edge, this.handle);
  }

  cornerPath(clip, dino) {
    return `M${this.x(clip)},${this.bounds.bottom}V${this.y(dino)}H${this.bounds.right}`;
  }

  move({ clip, dino }) {
    const path = this.cornerPath(clip, dino);
    this.edge.setAttribute("d", path);
    this.kept.setAttribute("d", `${path}V${this.bounds.bottom}Z`);
    this.handle.setAttribute("cx", this.x(clip));
    this.handle.setAttribute("cy", this.y(dino));
  }

  // Each box spread over the hexagons that it covers, then one path for each kind and shade.
  hexagons(right, bottom) {
    const RADIUS = 5.5, wide = RADIUS * Math.sqrt(3), tall = RADIUS * 1.5, SHADES = 6;
    const found = { raw: new Map(), candidates: new Map(), random: new Map() };
    for (const [kind, boxes] of Object.entries(this.counts.boxes)) {
      const scale = kind === "random" ? this.counts.scale : 1;
      for (const [x0, x1, y0, y1, count] of boxes) {
        const across = this.steps(x0, x1, this.x, wide), up = this.steps(y0, y1, this.y, tall);
        const each = scale * count / (across.length * up.length);
        for (const clip of across) for (const dino of up) {
          if (clip < this.range.clip[0] || this.counts.kindOf(clip, dino) !== kind) continue;
          const row = Math.round((this.y(dino) - this.top) / tall);
          const column = Math.round((this.x(clip) - this.left) / wide - (row % 2) / 2);
          const key = row * 4096 + column;
          found[kind].set(key, (found[kind].get(key) || 0) + each);
        }
      }
    }
    const most = Object.values(found).flatMap((each) => [...each.values()]).reduce((a, b) => Math.max(a, b), 10);
    const corner = [[0, -1], [0.5, -0.5], [0.5, 0.5], [0, 1], [-0.5, 0.5], [-0.5, -0.5]];
    for (const [kind, cells] of Object.entries(found)) {
      const paths = Array.from({ length: SHADES }, () => []);
      for (const [key, count] of cells) {
        const row = Math.floor(key / 4096), column = key % 4096;
        const x = this.left + (column + (row % 2) / 2) * wide, y = this.top + row * tall;
        if (x > right || y > bottom) continue;
        const shade = Math.floor(SHADES * Math.log10(Math.max(1, count)) / Math.log10(most));
        const around = corner.map(([dx, dy]) => `${(x + dx * wide).toFixed(1)},${(y + dy * RADIUS).toFixed(1)}`);
        paths[Math.min(SHADES - 1, shade)].push(`M${around.join("L")}Z`);
      }
      paths.forEach((path, shade) => {
        if (!path.length) return;
        const strength = (0.25 + 0.75 * shade / (SHADES - 1)).toFixed(2);
        this.svg.append(Draw.make("path", { class: `hex hex-${kind}`, "fill-opacity": strength, d: path.join("") }));
      });
    }
  }

  // Middles of equal parts of a side, no longer than a third of a hexagon.
  steps(from, to, place, size) {
    const parts = Math.min(60, Math.max(1, Math.ceil(3 * Math.abs(place(to) - place(from)) / size)));
    return Array.from({ length: parts }, (_, at) => from + (to - from) * (at + 0.5) / parts);
  }
}

function makeCorner(data) {
  const $ = (id) => document.getElementById(id);
  const counts = new Counts(data);
  const plot = new CornerPlot($("corner-area"), counts);
  const { step } = counts, { clip: clips, dino: dinos } = plot.range;
  const limits = {
    clip: [Math.ceil((clips[0] - counts.clip_above) / step - 1e-6), Math.floor((1 - counts.clip_above) / step + 1e-6)],
    dino: [Math.ceil((dinos[0] - counts.dino_below) / step - 1e-6), Math.floor((1 - counts.dino_below) / step + 1e-6)],
  };
  const inputs = { clip: $("corner-clip"), dino: $("corner-dino") };
  let k = 0, m = 0;

  function sayKept(kept) {
    const all = kept.raw + kept.candidates + kept.random, number = element("b", "", Draw.number(all));
    const found = [`CLIP > ${kept.clip} and DINO < ${kept.dino} keeps `];
    if (kept.isExact && k >= 0 && m <= 0) {
      found.push(number, ` of ${Draw.number(counts.num_blind)} blind pairs.`);
    } else if (kept.isExact) {
      found.push(number, ` pairs, counted in raw; the join's own thresholds keep ${Draw.number(counts.num_blind)}.`);
    } else {
      const parts = [`${Draw.number(kept.raw)} counted in raw`];
      if (kept.candidates) parts.push(`${Draw.number(kept.candidates)} more candidates by bins`);
      if (kept.random) parts.push(`${Draw.number(kept.random)} estimated from random pairs`);
      found.push(kept.isUnknown ? "at least " : "about ", number, ` pairs: ${parts.join(", ")}.`);
    }
    $("corner-found").replaceChildren(...found);
  }

  function show() {
    const kept = counts.kept(k, m);
    for (const [name, place] of [["clip", k], ["dino", m]]) {
      const value = String(kept[name]);
      inputs[name].value = String(place);
      inputs[name].setAttribute("aria-valuetext", value);
      $(`corner-${name}-value`).textContent = value;
    }
    sayKept(kept);
    $("corner-join").textContent = `blindpairs join DIR --clip-above ${kept.clip} --dino-below ${kept.dino}`;
    $("corner-reset").disabled = k === 0 && m === 0;
    if (plot.svg) plot.move(kept);
  }

  function moveTo(clipPlace, dinoPlace) {
    k = Math.min(limits.clip[1], Math.max(limits.clip[0], Math.round(clipPlace)));
    m = Math.min(limits.dino[1], Math.max(limits.dino[0], Math.round(dinoPlace)));
    show();
  }

  function drag(event) {
    const box = plot.svg.getBoundingClientRect();
    moveTo(
      (plot.clipOf(event.clientX - box.left) - counts.clip_above) / step,
      (plot.dinoOf(event.clientY - box.top) - counts.dino_below) / step,
    );
  }

  function listen() {
    let isDragged = false;
    plot.svg.addEventListener("pointerdown", (event) => {
      // A finger beside the handle scrolls the page.
      if (event.button || (event.pointerType !== "mouse" && event.target !== plot.handle)) return;
      isDragged = true;
      plot.svg.setPointerCapture(event.pointerId);
      event.preventDefault();
      drag(event);
    });
    plot.svg.addEventListener("pointermove", (event) => { if (isDragged) drag(event); });
    for (const type of ["pointerup", "pointercancel"]) {
      plot.svg.addEventListener(type, () => { isDragged = false; });
    }
  }

  for (const [name, [least, most]] of Object.entries(limits)) {
    Object.assign(inputs[name], { min: String(least), max: String(most), step: "1" });
    inputs[name].addEventListener("input", () => moveTo(Number(inputs.clip.value), Number(inputs.dino.value)));
  }
  $("corner-reset").addEventListener("click", () => moveTo(0, 0));

  let drawn = 0;
  const watcher = new ResizeObserver(() => {
    const width = Math.floor(plot.area.clientWidth);
    if (!width || width === drawn) return;
    drawn = width;
    plot.draw("Pairs by both cosines, with the corner of the thresholds");
    listen();
    show();
  });
  show();
  watcher.observe(plot.area);
}
