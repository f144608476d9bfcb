
// The list of pairs. Only the cards near the window are in the page.

const GAP = 18;
const CARD_WIDTH = 380;
const TEXT_HEIGHT = 124;

class Gallery {
  constructor(data, decisions, { opened, moved }) {
    Object.assign(this, { data, decisions, opened, moved });
    this.grid = $("grid");
    this.cells = new Map();
    this.order = [];
    this.cursor = 0;
    this.columns = 1;
    addEventListener("scroll", () => this.paint(), { passive: true });
    new ResizeObserver(() => this.fit()).observe(this.grid.parentElement);
  }

  get pair() {
    return this.data.pairs[this.order[this.cursor]];
  }

  list(order) {
    this.order = order;
    this.cursor = 0;
    this.measure();
    this.paint();
  }

  // Whoever was at a card is at it still when cards are made anew.
  fit() {
    if (this.grid.clientWidth !== this.width) {
      const isWithin = this.grid.contains(document.activeElement);
      this.measure();
      this.paint();
      if (isWithin) this.moveTo(this.cursor);
      if (isWithin && !$("viewer").open) this.focus();
    } else {
      this.paint();
    }
  }

  measure() {
    const width = this.width = this.grid.clientWidth;
    this.columns = Math.max(1, Math.floor((width + GAP) / (CARD_WIDTH + GAP)));
    this.cardWidth = Math.floor((width - GAP * (this.columns - 1)) / this.columns);
    this.rowHeight = Math.round(this.cardWidth / 2) + TEXT_HEIGHT + GAP;
    const numRows = Math.ceil(this.order.length / this.columns);
    this.grid.style.height = `${numRows * this.rowHeight}px`;
    for (const cell of this.cells.values()) cell.remove();
    this.cells.clear();
  }

  paint() {
    const { cells, columns, cardWidth, rowHeight } = this;
    const top = -this.grid.getBoundingClientRect().top, spare = innerHeight;
    const first = Math.max(0, Math.floor((top - spare) / rowHeight)) * columns;
    const last = Math.ceil((top + innerHeight + spare) / rowHeight) * columns;
    const end = Math.min(this.order.length, last);
    for (const [position, cell] of cells) {
      if (position >= first && position < end) continue;
      cell.remove();
      cells.delete(position);
    }
    for (let position = first; position < end; position += 1) {
      if (cells.has(position)) continue;
      const cell = this.cellOf(position);
      const column = position % columns, row = Math.floor(position / columns);
      cell.style.width = `${cardWidth}px`;
      cell.style.height = `${rowHeight - GAP}px`;
      cell.style.transform = `translate(${column * (cardWidth + GAP)}px, ${row * rowHeight}px)`;
      cells.set(position, cell);
      this.grid.append(cell);
    }
  }

  cellOf(position) {
    const pair = this.data.pairs[this.order[position]];
    const card = cardOf(pair, this.decisions.see(pair), this.data, position < this.columns);
    card.tabIndex = position === this.cursor ? 0 : -1;
    card.addEventListener("click", () => { this.moveTo(position); this.opened(); });
    const cell = element("div", "cell", card);
    cell.role = "listitem";
    cell.ariaPosInSet = position + 1;
    cell.ariaSetSize = this.order.length;
    return cell;
  }

  // A decision changes a card, never the list: what one looks at stays where it is.
  repaint(pair) {
    for (const [position, cell] of this.cells) {
      const shown = this.data.pairs[this.order[position]];
      if (pair && shown.pair_id !== pair.pair_id) continue;
      paintDecision(cell.firstChild, shown, this.decisions.see(shown), this.data);
    }
  }

  moveTo(position) {
    if (!this.order.length) return;
    this.cardAt(this.cursor)?.setAttribute("tabindex", "-1");
    this.cursor = Math.min(this.order.length - 1, Math.max(0, position));
    const row = Math.floor(this.cursor / this.columns) * this.rowHeight;
    const top = this.grid.getBoundingClientRect().top + row;
    const bar = $("pairs").querySelector(".bar");
    const isSticky = getComputedStyle(bar).position === "sticky";
    const room = isSticky ? bar.offsetHeight + 10 : 10;
    if (top < room) scrollBy(0, top - room);
    else if (top + this.rowHeight > innerHeight) scrollBy(0, top + this.rowHeight - innerHeight);
    this.paint();
    this.cardAt(this.cursor).tabIndex = 0;
    this.moved();
  }

  cardAt(position) {
    return this.cells.get(position)?.firstChild;
  }

  focus() {
    this.cardAt(this.cursor)?.focus({ preventScroll: true, focusVisible: true });
  }

  show(pair) {
    const position = this.order.indexOf(pair.index);
    if (position >= 0) this.moveTo(position);
  }
}
