
// Both images of a pair, enlarged and moved as one.

const MOST_ZOOM = 16;
const ZOOM_STEP = 1.5;

class Zoom {
  constructor(stage) {
    Object.assign(this, { stage, drag: null });
    this.reset();
    stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    stage.addEventListener("pointerdown", (event) => this.grab(event));
    stage.addEventListener("pointermove", (event) => this.pull(event));
    for (const type of ["pointerup", "pointercancel"]) {
      stage.addEventListener(type, () => { this.drag = null; stage.classList.remove("dragged"); });
    }
    stage.addEventListener("dblclick", (event) => {
      if (this.scale > 1) this.reset();
      else this.by(3, this.at(event));
    });
  }

  reset() {
    Object.assign(this, { scale: 1, x: 0, y: 0 });
    this.paint();
  }

  // Where in its frame a pointer is, from 0 to 1 in both directions.
  at({ clientX, clientY, target }) {
    const box = (target.closest(".frame") ?? this.stage).getBoundingClientRect();
    return [(clientX - box.left) / box.width, (clientY - box.top) / box.height];
  }

  by(factor, [x, y] = [0.5, 0.5]) {
    const scale = Math.min(MOST_ZOOM, Math.max(1, this.scale * factor));
    // The point under the pointer stays where it is.
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.paint();
  }

  wheel(event) {
    if (event.deltaY < 0 || this.scale > 1) {
      event.preventDefault();
      this.by(Math.exp(-event.deltaY / 400), this.at(event));
    }
  }

  grab(event) {
    if (this.scale === 1 || event.button !== 0) return;
    this.drag = { box: event.target.closest(".frame")?.getBoundingClientRect() };
    if (!this.drag.box) this.drag = null;
    else this.stage.setPointerCapture(event.pointerId);
  }

  pull({ movementX, movementY }) {
    if (!this.drag) return;
    this.stage.classList.add("dragged");
    this.x += movementX / this.drag.box.width;
    this.y += movementY / this.drag.box.height;
    this.paint();
  }

  paint() {
    const least = 1 - this.scale;
    this.x = Math.min(0, Math.max(least, this.x));
    this.y = Math.min(0, Math.max(least, this.y));
    const moved = `translate(${this.x * 100}%, ${this.y * 100}%) scale(${this.scale})`;
    for (const picture of this.stage.querySelectorAll("img")) {
      picture.style.transform = this.scale === 1 ? "" : moved;
    }
    this.stage.classList.toggle("zoomed", this.scale > 1);
    $("zoom-reset").textContent = `${Number(this.scale.toFixed(1))}×`;
  }
}
