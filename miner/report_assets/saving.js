
// Where decisions go: a file that is downloaded, and the run itself where the page is served.

const SAVE_AFTER_MS = 400;
const RETRY_MS = 3000;
const MOST_LINES = 300;

const isServed = () => document.querySelector("meta[name=review-server]") !== null;

function download(decisions) {
  const lines = new Blob([decisions.allLines()], { type: "application/x-ndjson" });
  const link = element("a");
  link.href = URL.createObjectURL(lines);
  link.download = "review.jsonl";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

class Saver {
  constructor(decisions, changed) {
    Object.assign(this, { decisions, changed, pending: new Set(), timer: 0, fault: "", isBusy: false });
    decisions.listeners.push((pair) => {
      if (pair) this.soon(pair.pair_id);
      else this.load();
    });
    addEventListener("pagehide", () => this.send({ keepalive: true }));
    this.load();
  }

  soon(id, afterMs = SAVE_AFTER_MS) {
    if (id) this.pending.add(id);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.send(), afterMs);
    this.changed();
  }

  // What this reviewer said before, here or on another machine; what is newer here is sent.
  async load() {
    const { decisions } = this;
    const { reviewer } = decisions;
    this.pending.clear();
    if (!reviewer) return;
    try {
      const answer = await fetch(`review.jsonl?reviewer=${encodeURIComponent(reviewer)}`);
      if (!answer.ok) throw new Error((await answer.text()).trim());
      const there = new Map();
      for (const text of (await answer.text()).split("\n").filter(Boolean)) {
        const read = decisions.readLine(text);
        if (read) there.set(read.pair.pair_id, read);
      }
      if (decisions.reviewer !== reviewer) return;
      for (const { pair, said } of there.values()) {
        if (decisions.take(pair, said)) this.pending.delete(pair.pair_id);
      }
      for (const [id, said] of decisions.said) {
        if (said.decided_at > (there.get(id)?.said.decided_at ?? "") && decisions.byId.has(id)) {
          this.pending.add(id);
        }
      }
      this.fault = "";
      if (this.pending.size) this.soon();
      this.changed();
    } catch (error) {
      this.fail(error, () => this.load());
    }
  }

  async send({ keepalive = false } = {}) {
    const { decisions } = this;
    if (!this.pending.size || (this.isBusy && !keepalive)) return;
    const ids = [...this.pending].slice(0, MOST_LINES);
    const sent = ids.map((id) => decisions.said.get(id));
    this.isBusy = true;
    try {
      const answer = await fetch("review.jsonl", {
        method: "POST",
        headers: { "Content-Type": "application/x-ndjson" },
        body: decisions.linesOf(ids),
        keepalive,
      });
      if (!answer.ok) throw new Error((await answer.text()).trim());
      ids.forEach((id, at) => {
        if (decisions.said.get(id) === sent[at]) this.pending.delete(id);
      });
      this.fault = "";
      if (this.pending.size) this.soon();
    } catch (error) {
      this.fail(error, () => this.soon());
    } finally {
      this.isBusy = false;
      this.changed();
    }
  }

  fail(error, again) {
    // The browser's own words say nothing of a server that is gone.
    this.fault = error instanceof TypeError ? "the server does not answer" : error.message;
    clearTimeout(this.timer);
    this.timer = setTimeout(again, RETRY_MS);
    this.changed();
  }

  status() {
    if (this.fault) return `not saved (${this.fault}); still in this browser`;
    return this.pending.size ? "saving …" : "saved in the run";
  }
}
