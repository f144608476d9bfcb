
// Where decisions go: a file that is downloaded, and the run itself where the page is served.

const SAVE_AFTER_MS = 400;
const RETRY_MS = 3000;
const MOST_LINES = 300;
// The server takes twice that; a browser sends up to 64 KiB for a page that goes away.
const MOST_BYTES = 4 * 2 ** 20;
const KEEPALIVE_BYTES = 60_000;
const TOO_LARGE = 413;

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
    Object.assign(this, {
      decisions, changed, pending: new Set(), fault: "", note: "", isBusy: false, isLoaded: false,
      sendTimer: 0, loadTimer: 0, mostLines: MOST_LINES,
    });
    decisions.listeners.push((pair) => { if (pair) this.soon(pair.pair_id); });
    addEventListener("pagehide", () => this.send({ keepalive: true }));
    this.load();
  }

  soon(id, afterMs = SAVE_AFTER_MS) {
    if (id) this.pending.add(id);
    clearTimeout(this.sendTimer);
    this.sendTimer = setTimeout(() => this.send(), afterMs);
    this.changed();
  }

  // Another reviewer: what the one before said goes out first, then it is asked what this one said.
  call(name) {
    this.send({ isLast: true });
    this.decisions.call(name);
    this.load();
  }

  // What this reviewer said before, here or on another machine; what is newer here is sent.
  // Until it is known nothing is decided or sent, since that would take its place unseen.
  async load() {
    const { decisions } = this;
    const { reviewer } = decisions;
    clearTimeout(this.loadTimer);
    Object.assign(this, { isLoaded: false, fault: "", note: "", mostLines: MOST_LINES });
    this.pending.clear();
    if (!reviewer) return;
    try {
      const answer = await fetch(`review.jsonl?reviewer=${encodeURIComponent(reviewer)}`);
      const text = await answer.text();
      if (decisions.reviewer !== reviewer) return;
      if (!answer.ok) throw new Error(text.trim());
      this.merge(text.split("\n"));
      this.isLoaded = true;
      this.changed();
    } catch (error) {
      if (decisions.reviewer !== reviewer) return;
      this.fault = this.wordsOf(error);
      this.loadTimer = setTimeout(() => this.load(), RETRY_MS);
      this.changed();
    }
  }

  merge(lines) {
    const { decisions } = this;
    const there = new Map();
    lines.forEach((line, at) => {
      if (!line) return;
      try {
        const read = decisions.readLine(line);
        if (read) there.set(read.pair.pair_id, read);
      } catch {
        const file = `review/${decisions.reviewer}.jsonl`;
        this.note ||= `line ${at + 1} of ${file} in the run is no decision; mend or remove it`;
      }
    });
    for (const { pair, said } of there.values()) decisions.merge(pair, said);
    this.pending.clear();
    for (const [id, said] of decisions.said) {
      const isNewer = said.decided_at > (there.get(id)?.said.decided_at ?? "");
      if (isNewer && decisions.byId.has(id)) this.pending.add(id);
    }
    if (this.pending.size) this.soon();
  }

  // As many lines as a request may hold: a page that goes away may send little.
  batch(mostBytes) {
    const ids = [], lines = [];
    let numBytes = 0;
    for (const id of this.pending) {
      const line = this.decisions.linesOf([id]);
      const lineBytes = new TextEncoder().encode(line).length;
      if (numBytes + lineBytes > mostBytes) continue;
      numBytes += lineBytes;
      ids.push(id);
      lines.push(line);
      if (ids.length >= this.mostLines) break;
    }
    return { ids, body: lines.join("") };
  }

  async send({ keepalive = false, isLast = false } = {}) {
    const { decisions } = this;
    const { reviewer } = decisions;
    if (!this.isLoaded || !this.pending.size || (this.isBusy && !keepalive && !isLast)) return;
    const { ids, body } = this.batch(keepalive ? KEEPALIVE_BYTES : MOST_BYTES);
    if (!ids.length) return;
    const sent = ids.map((id) => decisions.said.get(id));
    const isOver = () => decisions.reviewer !== reviewer;
    this.isBusy = true;
    try {
      const answer = await fetch("review.jsonl", {
        method: "POST",
        headers: { "Content-Type": "application/x-ndjson" },
        body,
        keepalive,
      });
      const words = (await answer.text()).trim();
      if (isOver()) return;
      if (answer.status === TOO_LARGE) this.mostLines = Math.max(1, Math.floor(ids.length / 2));
      // Nothing smaller than one line can be sent: only a change of it helps.
      if (answer.status === TOO_LARGE && ids.length === 1) this.pending.delete(ids[0]);
      if (!answer.ok) throw new Error(words);
      ids.forEach((id, at) => {
        if (decisions.said.get(id) === sent[at]) this.pending.delete(id);
      });
      this.fault = "";
      if (this.pending.size) this.soon();
    } catch (error) {
      if (isOver()) return;
      this.fault = this.wordsOf(error);
      if (this.pending.size) this.soon(null, RETRY_MS);
    } finally {
      this.isBusy = false;
      this.changed();
    }
  }

  // The browser's own words say nothing of a server that is gone.
  wordsOf(error) {
    return error instanceof TypeError ? "the server does not answer" : error.message;
  }

  status() {
    if (!this.isLoaded) {
      return this.fault
        ? `decisions wait: what you said before cannot be read (${this.fault})`
        : "reading what you said before …";
    }
    if (this.fault) return `not saved (${this.fault}); still in this browser`;
    if (this.note) return this.note;
    return this.pending.size ? "saving …" : "saved in the run";
  }
}
