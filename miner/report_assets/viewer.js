
// One pair, as large as the window: side by side, by turns in one place, enlarged.

const BLINK_MS = 600;

class Viewer {
  constructor(data, gallery) {
    Object.assign(this, { data, gallery, blinking: 0, dialog: $("viewer"), stage: $("stage") });
    this.zoom = new Zoom(this.stage);
    this.dialog.addEventListener("close", () => {
      if (this.blinking) this.blink();
      history.replaceState(null, "", "#");
      gallery.focus();
    });
  }

  get isOpen() {
    return this.dialog.open;
  }

  show() {
    const { gallery } = this;
    const { pair } = gallery;
    this.stage.replaceChildren(...pair.images.map((image, side) => {
      const made = frame(image, side + 1, { whole: true, eager: true });
      made.append(element("span", "which", `${side + 1}`));
      return made;
    }));
    this.turn(0);
    this.zoom.reset();
    $("facts").replaceChildren(...pairFacts(pair, this.data));
    $("place").textContent = `${numeral(gallery.cursor + 1)} of ${numeral(gallery.order.length)}`;
    $("previous").disabled = gallery.cursor === 0;
    $("next").disabled = gallery.cursor === gallery.order.length - 1;
    history.replaceState(null, "", `#${pair.pair_id}`);
  }

  open() {
    if (!this.gallery.order.length) return;
    if (!this.dialog.open) this.dialog.showModal();
    this.gallery.moved();
    this.dialog.scrollTop = 0;
  }

  // The event of closing comes late, so whoever presses a key meanwhile is at the card already.
  leave() {
    this.dialog.close();
    this.gallery.focus();
  }

  // Blinking puts both images in one place, by turns, so that a difference leaps to the eye.
  turn(side) {
    [...this.stage.children].forEach((made, at) => made.classList.toggle("behind", at !== side));
  }

  blink() {
    const isOn = !this.blinking;
    clearInterval(this.blinking);
    let side = 0;
    this.blinking = isOn ? setInterval(() => this.turn((side = 1 - side)), BLINK_MS) : 0;
    this.stage.classList.toggle("blinking", isOn);
    $("blink").setAttribute("aria-pressed", String(isOn));
    this.turn(0);
  }
}
