"use strict";
// Leafs through the groups of rollouts that the page holds. Every text goes in as text, never as markup.
(() => {
  const viewer = document.getElementById("viewer");
  if (!viewer) return;
  const $ = (id) => document.getElementById(id);
  // Columns of the index, as rollout_pages.py writes them.
  const [PIECE, PLACE, STEP, ID, PROMPT, COUNT, JUDGED, RIGHT, TOKENS, GAP, KINDS] = Array(11).keys();
  const LONG = 1500, KEPT = 24;
  const pieces = new Map();
  let about, shown = [], at = 0, turn = 0;

  const make = (tag, text, name) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (name) node.className = name;
    return node;
  };

  async function unpack(id) {
    const binary = atob($(id).textContent);
    const bytes = Uint8Array.from(binary, (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  async function piece(number) {
    if (!pieces.has(number)) {
      if (pieces.size >= KEPT) pieces.delete(pieces.keys().next().value);
      pieces.set(number, unpack(`rollouts-${number}`));
    }
    return pieces.get(number);
  }

  const verdicts = {
    mixed: (row) => row[RIGHT] > 0 && row[RIGHT] < row[JUDGED],
    right: (row) => row[JUDGED] > 0 && row[RIGHT] === row[JUDGED],
    wrong: (row) => row[JUDGED] > 0 && row[RIGHT] === 0,
    unjudged: (row) => row[JUDGED] < row[COUNT],
  };
  const orders = {
    gap: (a, b) => (b[GAP] ?? -1) - (a[GAP] ?? -1),
    tokens: (a, b) => b[TOKENS] - a[TOKENS],
    rare: (a, b) => a[RIGHT] / (a[JUDGED] || 1) - b[RIGHT] / (b[JUDGED] || 1),
  };

  async function contains(row, needle) {
    if ((row[ID] + "\n" + row[PROMPT]).toLowerCase().includes(needle)) return true;
    const group = (await piece(row[PIECE]))[row[PLACE]];
    return (group.prompt + "\n" + group.rollouts.map((each) => each.text).join("\n")).toLowerCase().includes(needle);
  }

  async function select() {
    const mine = ++turn;
    const bit = $("by-kind").value === "" ? 0 : 1 << Number($("by-kind").value);
    const step = $("by-step").value, verdict = verdicts[$("by-verdict").value];
    const needle = $("search").value.trim().toLowerCase();
    let rows = about.groups.filter(
      (row) => (!verdict || verdict(row)) && (!bit || row[KINDS] & bit) && (step === "" || row[STEP] === Number(step)));
    if (needle) {
      $("position").textContent = "searching ...";
      const found = [];
      for (const row of rows) {
        if (await contains(row, needle)) found.push(row);
        if (mine !== turn) return;
      }
      rows = found;
    }
    const order = orders[$("order").value];
    if (order) rows = [...rows].sort(order);
    shown = rows;
    at = 0;
    await show();
  }

  async function show() {
    const mine = ++turn;
    $("previous").disabled = at <= 0;
    $("next").disabled = at >= shown.length - 1;
    if (!shown.length) {
      $("position").textContent = "no group is like this";
      $("group").replaceChildren();
      return;
    }
    const row = shown[at];
    const group = (await piece(row[PIECE]))[row[PLACE]];
    if (mine !== turn) return;
    const number = (value) => value.toLocaleString("en");
    $("position").textContent = `group ${number(at + 1)} of ${number(shown.length)}`;
    const facts = make("p", `step ${row[STEP]}; prompt ${row[ID]}; ${row[RIGHT]} of ${row[JUDGED]} judged rollouts right`, "facts");
    if (group.task) facts.append(`; task ${group.task}`);
    const cards = make("div", undefined, "cards");
    cards.append(...group.rollouts.map(card));
    const parts = [facts, make("h4", "Prompt"), text(group.prompt)];
    if (group.answer && group.answer !== "null") parts.push(make("p", `expected: ${group.answer}`, "facts"));
    parts.push(make("h4", `${group.rollouts.length} completions`), cards);
    $("group").replaceChildren(...parts);
    viewer.dataset.shownAfterMs ??= String(Math.round(performance.now()));
  }

  function card(each) {
    const verdict = each.success === null ? "not judged" : each.success ? "right" : "wrong";
    const node = make("div", undefined, `card ${verdict}`);
    const head = make("div", undefined, "head");
    const expected = { right: "correct", wrong: "wrong" }[verdict];
    head.append(make("b", verdict));
    if (each.status && each.status !== expected) head.append(make("span", each.status));
    if (each.value !== null) head.append(make("span", `reward ${short(each.value)}`));
    head.append(make("span", `${each.tokens} tokens`));
    head.append(make("span", each.finish === "length" ? "cut off" : each.finish));
    head.append(make("span", each.gap === null ? "gap not computed" : `gap ${short(each.gap)} nats`));
    head.append(make("span", `policy ${each.version}`));
    node.append(head, text(each.text));
    if (each.cut) node.append(make("p", `${each.cut} more characters are in the run's folder`, "facts"));
    if (each.reason) node.append(make("p", each.reason, "facts"));
    for (const key of each.kinds) {
      const kind = about.kinds.find((known) => known[0] === key);
      if (kind) node.append(make("span", kind[1], "chip"), " ");
    }
    return node;
  }

  const short = (value) => (value === 0 ? "0" : Math.abs(value) < 0.001 ? value.toExponential(1) : String(+value.toPrecision(3)));

  function text(content) {
    const node = make("pre", content || "(empty)");
    if (content.length <= LONG) return node;
    node.textContent = content.slice(0, LONG) + " ...";
    const all = make("button", `show all ${content.length.toLocaleString("en")} characters`);
    all.type = "button";
    all.addEventListener("click", () => { node.textContent = content; all.remove(); });
    const both = make("div");
    both.append(node, all);
    return both;
  }

  function move(by) {
    const wanted = Math.min(Math.max(at + by, 0), shown.length - 1);
    if (wanted !== at && wanted >= 0) { at = wanted; show(); }
  }

  async function start() {
    if (typeof DecompressionStream === "undefined") {
      $("group").replaceChildren(make("p", "This browser is too old to open the rollouts; one of 2023 or later can.", "warning"));
      return;
    }
    about = await unpack("rollouts-index");
    about.kinds.forEach(([, title], bit) => {
      const count = about.groups.filter((row) => row[KINDS] & (1 << bit)).length;
      if (!count) return;
      const option = make("option", `${title} (${count})`);
      option.value = String(bit);
      $("by-kind").append(option);
    });
    for (const step of new Set(about.groups.map((row) => row[STEP]))) {
      const option = make("option", `step ${step}`);
      option.value = String(step);
      $("by-step").append(option);
    }
    for (const id of ["by-verdict", "by-kind", "by-step", "order"]) $(id).addEventListener("change", select);
    let typing;
    $("search").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(select, 250); });
    $("previous").addEventListener("click", () => move(-1));
    $("next").addEventListener("click", () => move(1));
    document.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
      const box = viewer.getBoundingClientRect();
      if (box.bottom < 0 || box.top > window.innerHeight) return;
      if (event.key === "ArrowLeft") move(-1);
      if (event.key === "ArrowRight") move(1);
    });
    for (const button of document.querySelectorAll("button.show")) {
      button.addEventListener("click", () => {
        for (const id of ["by-verdict", "by-step", "search"]) $(id).value = "";
        $("by-kind").value = button.dataset.kind;
        $("order").value = button.dataset.order;
        select().then(() => viewer.scrollIntoView({ behavior: "smooth" }));
      });
    }
    await select();
  }
  start();
})();
