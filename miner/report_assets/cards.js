
// A pair as a card of the list.

const OUTCOMES = { accept: "accepted", reject: "rejected" };

function meter(kind, name, cosine, threshold) {
  const fill = element("i"), mark = element("u"), value = element("b");
  fill.style.width = `${Math.max(0, cosine) * 100}%`;
  mark.style.left = `calc(${Math.max(0, threshold) * 100}% - 1px)`;
  value.textContent = cosine.toFixed(3);
  const made = element("div", `meter meter-${kind}`, name, element("span", "rail", fill, mark), value);
  made.title = `${name} cosine ${cosine}, threshold ${threshold}`;
  return made;
}

function metersOf(pair, data) {
  return [
    meter("clip", "CLIP", pair.clip_cos, data.clip_above),
    meter("dino", "DINO", pair.dino_cos, data.dino_below),
  ];
}

function frame(image, which, { whole = false, eager = false }) {
  const made = element("span", "frame");
  if (!image.extension) {
    made.append(element("span", "missing", whole ? visible(image.note) : "image not at hand"));
    return made;
  }
  const picture = element("img");
  picture.decoding = "async";
  picture.loading = eager ? "eager" : "lazy";
  const said = image.caption || image.label;
  picture.alt = `Image ${which}: ${said ? visible(said).slice(0, 300) : "no caption"}`;
  picture.src = whole ? viewOf(image) : thumbOf(image);
  picture.draggable = false;
  made.append(picture);
  return made;
}

function nameOf(pair, seen) {
  const said = pair.images.map((image) => image.caption || image.label || "no caption");
  const outcome = seen.decision ? ` (${OUTCOMES[seen.decision]})` : "";
  return `Pair ${pair.rank}, CLIP ${pair.clip_cos.toFixed(3)}, DINO ${pair.dino_cos.toFixed(3)}`
    + `${outcome}: ${said.map((text) => visible(text).slice(0, 120)).join(" and ")}`;
}

function rankLine(pair, seen, data) {
  const made = element("div", "rank", `#${pair.rank}`, element("span", "", `gap ${pair.gap.toFixed(3)}`));
  if (pair.borderline) made.append(element("span", "chip", "borderline"));
  const pattern = seen.pattern && data.patterns[seen.pattern].folder;
  const isOffered = seen.offered.includes("pattern");
  if (pattern) made.append(element("span", isOffered ? "chip offered" : "chip tag", pattern));
  if (seen.decision) made.append(element("span", `chip ${seen.decision}`, OUTCOMES[seen.decision]));
  return made;
}

// What of a card depends on what was said.
function paintDecision(card, pair, seen, data) {
  card.classList.toggle("accepted", seen.decision === "accept");
  card.classList.toggle("rejected", seen.decision === "reject");
  card.setAttribute("aria-label", nameOf(pair, seen));
  card.querySelector(".rank").replaceWith(rankLine(pair, seen, data));
}

function cardOf(pair, seen, data, eager) {
  const [one, two] = pair.images;
  const card = element("button", "card");
  card.type = "button";
  card.append(
    element("span", "images", frame(one, 1, { eager }), frame(two, 2, { eager })),
    element(
      "span", "below",
      ...[one, two].map((image) => textOf("caption", image.caption || image.label, "no caption")),
      ...metersOf(pair, data),
      element("div", "rank"),
    ),
  );
  paintDecision(card, pair, seen, data);
  return card;
}
