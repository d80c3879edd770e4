// A digit that is drawn on the page is read by the networks of the book, here, in the page: no library, no request.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const { SIZE, decodeBytes, readNetwork, run, normalisation, imageOf } = smallcnn;
  const { boxBehind, tilesBehind, evidenceOf, stagesOf, best, isTrained, verdict } = smallcnn;

  // ---- Parts of a page. ----

  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in element) element[name] = value;
      else element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  }

  const hundredths = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
  const shown = (number) => hundredths.format(number).replace("-0.00", "0.00").replace("-", "−");
  const signed = (number) => (number < 0 ? "− " : "+ ") + shown(Math.abs(number));
  const percent = (share) => `${Math.round(100 * share)} %`;
  const counted = (number) => number.toLocaleString("en");
  const plural = (count, noun) => `${counted(count)} ${noun}${count === 1 ? "" : "s"}`;

  function luminance(...parts) {
    const [red, green, blue] = parts.map((part) => (part / 255) ** 2.2);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  }

  /** Colours for −1 to 1 by their number, 0 to 255: what the style sheet says for below, at and above nought. */
  const palette = {
    css: [],
    text: [],
    numbers: new Uint32Array(256),
    read(element) {
      const style = getComputedStyle(element);
      const stops = ["low", "lower", "nought", "higher", "high"].map((name) =>
        style.getPropertyValue(`--hand-${name}`).match(/[0-9a-f]{2}/gi).map((pair) => parseInt(pair, 16)));
      for (let at = 0; at < 256; at++) {
        const place = Math.min((at / 255) * 4, 3.999);
        const [from, to] = [stops[Math.floor(place)], stops[Math.floor(place) + 1]];
        const [red, green, blue] = from.map((part, of) => Math.round(part + (to[of] - part) * (place % 1)));
        this.css[at] = `rgb(${red} ${green} ${blue})`;
        this.text[at] = luminance(red, green, blue) > 0.179 ? "#000" : "#fff"; // where both stand out as much
        this.numbers[at] = (255 << 24) | (blue << 16) | (green << 8) | red;
      }
      this.pruned = style.getPropertyValue("--hand-pruned");
      this.ink = style.getPropertyValue("--hand-ink");
    },
    at: (share) => Math.round(127.5 + 127.5 * Math.max(-1, Math.min(1, share || 0))),
  };

  const largest = (numbers) => numbers.reduce((most, number) => Math.max(most, Math.abs(number)), 0) || 1;

  /** Paints a map, a pixel of the canvas each. */
  function paintMap(canvas, rows, columns, numbers, scale) {
    if (canvas.width !== columns || canvas.height !== rows) [canvas.width, canvas.height] = [columns, rows];
    const context = canvas.getContext("2d");
    const image = context.createImageData(columns, rows);
    const pixels = new Uint32Array(image.data.buffer);
    for (let at = 0; at < pixels.length; at++) pixels[at] = palette.numbers[palette.at(numbers[at] / scale)];
    context.putImageData(image, 0, 0);
  }

  /** Paints the weights of a tile in squares of `cell` pixels; a pruned one is a dot. */
  function paintWeights(context, left, top, cell, { rows, columns, weights }, scale) {
    for (let at = 0; at < rows * columns; at++) {
      const [x, y] = [left + (at % columns) * cell, top + Math.floor(at / columns) * cell];
      const [x0, y0] = [Math.round(x), Math.round(y)];
      context.fillStyle = weights[at] === 0 ? palette.pruned : palette.css[palette.at(weights[at] / scale)];
      if (weights[at] === 0) {
        const dot = Math.max(1, Math.round(cell / 4));
        context.fillRect(Math.round(x + (cell - dot) / 2), Math.round(y + (cell - dot) / 2), dot, dot);
      } else {
        context.fillRect(x0, y0, Math.round(x + cell) - x0, Math.round(y + cell) - y0);
      }
    }
  }

  /** Puts a frame around a box of pixels of what is rows × columns large; around nothing if there is no box. */
  function frame(mark, box, rows, columns) {
    mark.hidden = !box;
    if (!box) return;
    mark.style.left = `${(100 * box.left) / columns}%`;
    mark.style.top = `${(100 * box.top) / rows}%`;
    mark.style.width = `${(100 * (box.right + 1 - box.left)) / columns}%`;
    mark.style.height = `${(100 * (box.bottom + 1 - box.top)) / rows}%`;
  }

  const newMark = () => make("i", { className: "hand-mark", hidden: true });

  // ---- The field to draw in. ----

  class Field {
    /** Calls `onInk` with the image, or null, whenever that changes. */
    constructor(samples, onInk) {
      this.strokes = [];
      this.sample = null;
      this.onInk = onInk;
      this.paper = make("canvas", { className: "hand-paper", role: "img", ariaLabel: "Field to draw a digit in" });
      this.mark = newMark();
      this.hint = make("p", { className: "hand-hint" }, "Draw a digit here");
      this.pen = make("input", { type: "range", min: 3, max: 12, step: 0.5, value: 7, ariaLabel: "Width of the pen" });
      this.undo = make("button", { type: "button", onclick: () => this.change(() => this.strokes.pop()) }, "Undo");
      this.clear = make("button", { type: "button", onclick: () => this.change(() => (this.strokes = [])) }, "Clear");
      this.pen.oninput = () => this.change(() => null, this.sample);
      this.samples = samples.map((sample, number) => this.sampleButton(sample, number));
      const tools = make("div", { className: "hand-tools" },
        this.undo, this.clear, make("label", {}, "pen ", this.pen));
      this.element = make("div", { className: "hand-draw" },
        make("div", { className: "hand-field" }, this.paper, this.mark, this.hint), tools,
        make("div", { className: "hand-samples", role: "group", ariaLabel: "Digits to begin with" }, ...this.samples));
      this.listen();
    }

    sampleButton(sample, number) {
      const pixels = Float64Array.from(decodeBytes(sample.pixels), (byte) => byte / 255);
      const canvas = make("canvas", { width: SIZE, height: SIZE });
      const isHard = `A ${sample.digit} that is hard to read, sample ${number + 1}`;
      const name = sample.hard ? isHard : `Sample ${sample.digit}`;
      const button = make("button", { type: "button", title: name, ariaLabel: name, ariaPressed: "false" }, canvas);
      button.onclick = () => this.change(() => (this.strokes = []), button);
      return Object.assign(button, { pixels, canvas });
    }

    listen() {
      const place = (event) => {
        const box = this.paper.getBoundingClientRect();
        return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
      };
      this.paper.addEventListener("pointerdown", (event) => {
        if (event.button !== 0 || !event.isPrimary) return;
        event.preventDefault();
        this.paper.setPointerCapture(event.pointerId);
        this.drawing = event.pointerId;
        this.change(() => this.strokes.push([place(event)]));
      });
      this.paper.addEventListener("pointermove", (event) => {
        if (event.pointerId !== this.drawing) return;
        const passed = event.getCoalescedEvents?.() ?? [];
        this.change(() => this.strokes[this.strokes.length - 1].push(...(passed.length ? passed : [event]).map(place)));
      });
      const end = (event) => {
        if (event.pointerId === this.drawing) this.drawing = null;
      };
      this.paper.addEventListener("pointerup", end);
      this.paper.addEventListener("pointercancel", end);
    }

    change(how, sample = null) {
      this.sample = sample;
      how();
      this.samples.forEach((button) => (button.ariaPressed = String(button === sample)));
      this.paint();
      const image = imageOf(this.strokes, this.pen.value / 100);
      this.image = sample ? { pixels: sample.pixels, scale: SIZE, left: 0, top: 0 } : image;
      this.onInk(this.image);
    }

    paint() {
      const size = Math.round(this.paper.clientWidth * devicePixelRatio);
      const context = this.paper.getContext("2d");
      if (this.paper.width !== size) this.paper.width = this.paper.height = size;
      context.clearRect(0, 0, size, size);
      this.hint.hidden = this.strokes.length > 0 || this.sample !== null;
      if (this.sample) context.drawImage(this.sample.canvas, 0, 0, size, size);
      context.strokeStyle = palette.ink;
      context.lineWidth = (this.pen.value / 100) * size;
      context.lineCap = context.lineJoin = "round";
      for (const stroke of this.strokes) {
        context.beginPath();
        stroke.forEach(([x, y]) => context.lineTo(x * size, y * size));
        if (stroke.length === 1) context.lineTo(stroke[0][0] * size, stroke[0][1] * size);
        context.stroke();
      }
    }

    /** Takes the colours of the page. */
    recolour() {
      this.samples.forEach(({ canvas, pixels }) => paintInk(canvas, pixels));
      this.paint();
    }

    /** Frames what a box of pixels of the image is in the drawing. */
    showBox(box) {
      if (!box || !this.image) return frame(this.mark, null);
      const { scale, left, top } = this.image;
      const [x, y] = [(box.left - left) / scale, (box.top - top) / scale];
      const [right, bottom] = [(box.right + 1 - left) / scale, (box.bottom + 1 - top) / scale];
      const inside = [x, y, right, bottom].map((edge) => Math.min(1, Math.max(0, edge)));
      frame(this.mark, { left: inside[0], top: inside[1], right: inside[2] - 1, bottom: inside[3] - 1 }, 1, 1);
    }
  }

  function paintInk(canvas, pixels) {
    const context = canvas.getContext("2d");
    [canvas.width, canvas.height] = [SIZE, SIZE];
    context.fillStyle = palette.ink;
    pixels?.forEach((ink, at) => {
      context.globalAlpha = ink;
      if (ink) context.fillRect(at % SIZE, Math.floor(at / SIZE), 1, 1);
    });
  }

  // ---- A network on the page: for each stage its maps, and under each map the weights that made it. ----

  const KINDS = { convolution: "the sums", activation: "after ReLU", batch_normalisation: "normalised" };

  class NetworkView {
    /** Calls `onSelect` with what of this network is pointed at. */
    constructor(network, onSelect) {
      this.network = network;
      this.stages = stagesOf(network).map((stage, at, { length }) => this.stageView(stage, at === length - 1));
      this.onSelect = onSelect;
      this.element = make("section", { className: "hand-network", ariaLabel: network.label },
        make("h3", {}, network.label), ...this.stages.map((stage) => stage.element));
    }

    stageView(stage, isLast) {
      const [{ y, kernel }] = stage.layers;
      const title = stageTitle(stage, isLast);
      const view = { ...stage, isLast, title, rows: y.rows, columns: y.columns, channels: y.channels };
      view.cards = Array.from({ length: y.channels }, (_, channel) => this.card(view, channel));
      const what = isLast ? "classes" : y.rows * y.columns > 1 ? `maps of ${y.rows} × ${y.columns}` : "numbers";
      const ariaLabel = `${title.name}: ${y.channels} ${what}. Arrow keys move over them.`;
      view.grid = make("div", { className: "hand-cards", tabIndex: 0, role: "application", ariaLabel },
        ...view.cards.map(({ element }) => element));
      const count = y.channels <= 4 ? "few" : y.channels <= 8 ? "some" : y.channels <= 10 ? "ten" : "many";
      view.element = make("div", { className: `hand-stage hand-${count}` },
        make("h4", {}, title.name, make("span", {}, ` ${title.what}`)), view.grid);
      view.weightScale = kernel ? largest(kernel) : 1;
      const point = (event) => {
        const selection = this.pointedAt(view, event);
        const isMeant = event.type === "pointerdown" || event.pointerType === "mouse"; // a finger may be scrolling
        if (selection && isMeant) this.onSelect(this, selection);
      };
      view.grid.addEventListener("pointermove", point);
      view.grid.addEventListener("pointerdown", point);
      view.grid.addEventListener("keydown", (event) => this.onKey(view, event));
      view.grid.addEventListener("focus", () => {
        if (view.grid.matches(":focus-visible")) this.onSelect(this, this.startOf(view), true);
      });
      return view;
    }

    card(view, channel) {
      const [layer] = view.layers;
      const card = { channel, map: null, weights: null };
      const parts = [];
      const evidence = view.isLast && layer.picture;
      if (view.rows * view.columns > 1 || !view.isLast || evidence) {
        card.map = make("canvas", { className: "hand-map" });
        card.mark = newMark();
        parts.push(make("div", { className: "hand-framed" }, card.map, card.mark));
      }
      if (layer.kernel) {
        card.tiles = tilesBehind(layer, channel, 0, 0);
        card.weights = make("canvas", { className: "hand-weights" });
        card.weightMark = newMark();
        parts.push(make("div", { className: "hand-framed" }, card.weights, card.weightMark));
      }
      if (view.isLast) {
        card.score = make("span", { className: "hand-score" });
        card.bar = make("i");
        parts.push(make("span", { className: "hand-bar" }, card.bar), make("b", {}, String(channel)), card.score);
      }
      card.element = make("div", { className: "hand-card" }, ...parts);
      card.element.channel = channel;
      return card;
    }

    /** The layer of a stage whose numbers its maps show: the last one, or the last that is at most of this kind. */
    layerShown(view, kind) {
      if (view.isLast) return view.layers[0];
      const order = Object.keys(KINDS);
      const next = view.layers.findIndex((layer) => order.indexOf(layer.kind) > order.indexOf(kind));
      return view.layers[(next < 0 ? view.layers.length : Math.max(next, 1)) - 1];
    }

    /** Shows the numbers of the last run. */
    paint(kind) {
      this.kind = kind;
      for (const view of this.stages) {
        const layer = this.layerShown(view, kind);
        const { data } = layer.y;
        const pixels = view.rows * view.columns;
        if (!view.isLast) {
          const scale = largest(data);
          view.cards.forEach(({ map }, at) =>
            paintMap(map, view.rows, view.columns, data.subarray(at * pixels, (at + 1) * pixels), scale));
        } else {
          this.paintClasses(view);
        }
      }
    }

    paintClasses(view) {
      const [layer] = view.layers;
      const winner = best(this.network.probabilities);
      const evidence = layer.picture ? view.cards.map(({ channel }) => evidenceOf(layer, channel)) : [];
      const scale = layer.picture ? largest(evidence.flat()) : 1;
      view.cards.forEach((card, at) => {
        if (card.map) paintMap(card.map, layer.picture.rows, layer.picture.columns, evidence[at], scale);
        card.score.textContent = shown(layer.y.data[at]);
        card.bar.style.height = `${100 * this.network.probabilities[at]}%`;
        card.element.classList.toggle("hand-winner", at === winner);
      });
    }

    /** Shows the weights, when the colours or the size of the page change. */
    paintWeights() {
      for (const view of this.stages) {
        for (const { weights, tiles } of view.cards.filter((card) => card.weights)) {
          const width = (view.grid.firstChild.clientWidth - 4) * devicePixelRatio;
          const [{ rows, columns }] = tiles;
          const across = Math.ceil(Math.sqrt(tiles.length));
          const cell = Math.min(width / (across * (columns + 0.6) - 0.6), 8 * devicePixelRatio);
          const step = [cell * (columns + 0.6), cell * (rows + 0.6)];
          Object.assign(view, { across, down: Math.ceil(tiles.length / across) });
          weights.width = Math.round(across * step[0] - 0.6 * cell);
          weights.height = Math.round(view.down * step[1] - 0.6 * cell);
          weights.style.width = `${weights.width / devicePixelRatio}px`;
          const context = weights.getContext("2d");
          tiles.forEach((tile, at) => paintWeights(context, (at % across) * step[0], Math.floor(at / across) * step[1],
            cell, tile, view.weightScale));
        }
      }
    }

    pointedAt(view, event) {
      const card = view.cards.find(({ element }) => element.contains(event.target));
      if (!card) return null;
      const canvas = event.target.closest(".hand-framed")?.querySelector("canvas");
      const stage = this.stages.indexOf(view);
      const place = (rows, columns) => {
        const box = canvas.getBoundingClientRect();
        const row = Math.floor(((event.clientY - box.top) / box.height) * rows);
        const column = Math.floor(((event.clientX - box.left) / box.width) * columns);
        return [Math.min(rows - 1, Math.max(0, row)), Math.min(columns - 1, Math.max(0, column))];
      };
      if (canvas && canvas === card.weights) {
        const [down, right] = place(view.down, view.across);
        return { stage, channel: card.channel, tile: Math.min(down * view.across + right, card.tiles.length - 1) };
      }
      const [row, column] = canvas && !view.isLast ? place(view.rows, view.columns) : [0, 0];
      return { stage, channel: card.channel, row, column };
    }

    startOf(view) {
      const stage = this.stages.indexOf(view);
      if (this.selection?.stage === stage) return this.selection;
      if (view.isLast) return { stage, channel: best(this.network.probabilities), row: 0, column: 0 };
      const { data } = this.layerShown(view, this.kind).y;
      const at = best(data);
      const pixel = at % (view.rows * view.columns);
      return {
        stage, channel: Math.floor(at / (view.rows * view.columns)),
        row: Math.floor(pixel / view.columns), column: pixel % view.columns,
      };
    }

    /** Arrow keys move over the pixels of a map, down from there over its kernels, sideways to the next map. */
    onKey(view, event) {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      const leap = { PageUp: -1, PageDown: 1 }[event.key];
      if (!step && !leap) return;
      event.preventDefault();
      const now = { ...this.startOf(view) };
      const isWeight = now.tile !== undefined;
      const [rows, columns] = isWeight ? [view.down, view.across] : [view.rows, view.columns];
      let row = (isWeight ? Math.floor(now.tile / columns) : now.row) + (step?.[0] ?? 0);
      let column = (isWeight ? now.tile % columns : now.column) + (step?.[1] ?? 0);
      const sideways = leap ?? (column < 0 ? -1 : column >= columns ? 1 : 0);
      if (sideways) {
        now.channel = (now.channel + sideways + view.channels) % view.channels;
        if (!leap) column = sideways > 0 ? 0 : columns - 1;
      }
      if (!isWeight && row >= rows && view.cards[0].weights) Object.assign(now, { tile: 0, row: undefined });
      else if (isWeight && row < 0) Object.assign(now, { tile: undefined, row: view.rows - 1, column: 0 });
      else if (isWeight) {
        const tile = Math.min(rows - 1, row) * columns + column;
        now.tile = Math.min(tile, view.cards[0].tiles.length - 1);
      } else Object.assign(now, { row: Math.min(rows - 1, Math.max(0, row)), column });
      this.onSelect(this, now, true);
    }

    /** Marks what is selected and what it is made from; returns what of the image that is. */
    mark(selection) {
      this.selection = selection;
      for (const view of this.stages) {
        for (const card of view.cards) {
          card.element.classList.remove("hand-lit");
          if (card.mark) frame(card.mark, null);
          if (card.weightMark) frame(card.weightMark, null);
        }
      }
      if (!selection) return null;
      const { stage, channel, tile, row, column } = selection;
      const view = this.stages[stage];
      const card = view.cards[channel];
      const [layer] = view.layers;
      const before = this.stages[stage - 1];
      card.element.classList.add("hand-lit");
      if (tile !== undefined) {
        const [right, down] = [tile % view.across, Math.floor(tile / view.across)];
        const cell = { left: right, top: down, right, bottom: down };
        frame(card.weightMark, cell, view.down, view.across);
        before?.cards[tile]?.element.classList.add("hand-lit");
        return null;
      }
      let box = { top: row, left: column, bottom: row, right: column };
      if (card.mark && !view.isLast) frame(card.mark, box, view.rows, view.columns);
      for (let at = view.at; at >= 0; at--) {
        box = boxBehind(this.network.layers[at], box);
        if (before && at === before.at + before.layers.length) this.markSources(before, layer, channel, box);
      }
      return box;
    }

    markSources(before, layer, channel, box) {
      for (const card of before.cards) {
        const isSource = layer.kernel || card.channel === channel;
        if (isSource) card.element.classList.add("hand-lit");
        if (isSource && card.mark) frame(card.mark, box, before.rows, before.columns);
      }
    }
  }

  function stageTitle({ layers }, isLast) {
    const [block] = layers[0].name.split("/");
    const what = layers.filter((layer) => layer.kind !== "dropout").map((layer) => layer.description).join(", ");
    const name = isLast ? "Ten classes" : block.replace("_", " ").replace(/^./, (letter) => letter.toUpperCase());
    return { name, what };
  }

  // ---- The sum behind what is pointed at. ----

  class Inspector {
    /** Calls `onPick` with the number of a tile that is pointed at. */
    constructor(onPick) {
      this.onPick = onPick;
      this.title = make("h4");
      this.big = make("div", { className: "hand-big" });
      this.pairs = make("div", { className: "hand-pairs" });
      this.steps = make("div", { className: "hand-steps" });
      this.element = make("div", { className: "hand-inspector" }, this.title, this.big, this.pairs, this.steps);
      this.pool = [];
    }

    /** Spells out a selection of a network as it is now, with one tile in numbers; returns it in a few words. */
    show(view, selection, picked) {
      const stage = view.stages[selection.stage];
      const { channel } = selection;
      const isMap = stage.rows * stage.columns > 1;
      const named = stage.isLast ? `class ${channel}` : `${isMap ? "map" : "number"} ${channel + 1}`;
      if (selection.tile !== undefined) return this.showKernel(stage, selection, named);
      const { row, column } = selection;
      const place = isMap ? `, row ${row + 1}, column ${column + 1}` : "";
      this.title.textContent = `${stage.title.name}, ${named}${place}`;
      const [layer] = stage.layers;
      const at = (channel * stage.rows + row) * stage.columns + column;
      const behind = tilesBehind(layer, channel, row, column);
      const strongest = behind.reduce((most, tile, number) =>
        Math.abs(tile.sum) > Math.abs(behind[most].sum) ? number : most, 0);
      this.showTiles(behind, Math.min(picked ?? strongest, behind.length - 1), stage.weightScale);
      const steps = stage.layers.slice(SUMMARIES[layer.kind] || layer.kernel ? 1 : 0);
      const lines = layer.kernel ? sumLines(layer, behind, channel, at) : summaryLines(layer, behind[0], at);
      lines.push(...steps.map((next) => stepLine(next, channel, at)).filter(Boolean));
      if (!lines.length) lines.push(["one number", "", shown(layer.y.data[at])]);
      this.steps.replaceChildren(...lines.flat().map((text) => make("span", {}, text)));
      return `${this.title.textContent}: ${lines[lines.length - 1][2]}`;
    }

    showKernel(stage, { channel, tile }, named) {
      const { rows, columns, weights } = tilesBehind(stage.layers[0], channel, 0, 0)[tile];
      const pruned = weights.filter((weight) => weight === 0).length;
      this.title.textContent = `${stage.title.name}, weights from map ${tile + 1} to ${named}`;
      this.pairs.replaceChildren();
      this.big.replaceChildren(numberGrid(columns, weights, stage.weightScale, true));
      const all = plural(weights.length, "weight");
      this.steps.replaceChildren(pruned ? `${pruned} of ${all} pruned` : all);
      return `${this.title.textContent}: ${weights.map(shown).join(", ")}`;
    }

    /** Shows one tile in numbers and all of them small, of which pointing at one puts it in the place of the first. */
    showTiles(behind, chosen, weightScale) {
      const scale = largest(behind.flatMap(({ values }) => values));
      const { rows, columns, values, weights, sum } = behind[chosen];
      this.big.replaceChildren(numberGrid(columns, values, scale));
      if (weights) {
        this.big.append(make("span", {}, "×"), numberGrid(columns, weights, weightScale, true),
          make("span", {}, `= ${shown(sum)}`));
      }
      if (behind.length === 1) return this.pairs.replaceChildren();
      behind.forEach((tile, number) => {
        this.pool[number] ??= this.pair(number);
        const { element, patch, kernel, result } = this.pool[number];
        paintMap(patch, rows, columns, tile.values, scale);
        kernel.width = columns * 6;
        kernel.height = rows * 6;
        paintWeights(kernel.getContext("2d"), 0, 0, 6, tile, weightScale);
        result.textContent = signed(tile.sum);
        element.classList.toggle("hand-lit", number === chosen);
      });
      this.pairs.replaceChildren(...this.pool.slice(0, behind.length).map(({ element }) => element));
    }

    pair(number) {
      const [patch, kernel] = [make("canvas"), make("canvas")];
      const result = make("span");
      const element = make("div", { title: `map ${number + 1}` }, patch, kernel, result);
      element.addEventListener("pointerenter", () => this.onPick(number));
      element.addEventListener("pointerdown", () => this.onPick(number));
      return { element, patch, kernel, result };
    }
  }

  /** Numbers in squares of their colours; a pruned weight is a dot. */
  function numberGrid(columns, numbers, scale, isWeights = false) {
    const cells = numbers.map((number) => {
      const at = palette.at(number / scale);
      const cell = make("i", {}, isWeights && number === 0 ? "•" : shown(number));
      Object.assign(cell.style, { background: palette.css[at], color: palette.text[at] });
      return cell;
    });
    const grid = make("div", { className: "hand-numbers" }, ...cells);
    grid.style.setProperty("--columns", columns);
    return grid;
  }

  function sumLines(layer, behind, channel, at) {
    const sum = behind.reduce((sum, tile) => sum + tile.sum, 0);
    const products = behind.length * behind[0].values.length;
    const lines = [[plural(products, "product"), behind.length > 1 ? `from ${behind.length} maps` : "", shown(sum)]];
    if (layer.bias) lines.push(["bias", signed(layer.bias[channel]), shown(layer.y.data[at])]);
    return lines;
  }

  const SUMMARIES = {
    max_pooling: "the largest of",
    average_pooling: "the mean of",
    global_average_pooling: "the mean of",
  };

  function summaryLines(layer, { values }, at) {
    const summary = SUMMARIES[layer.kind];
    return summary ? [[summary, plural(values.length, "number"), shown(layer.y.data[at])]] : [];
  }

  /** A line on what a layer does to one number; none for one that does nothing. */
  function stepLine(layer, channel, at) {
    const result = layer.y.data[at];
    if (layer.kind === "batch_normalisation") {
      const [factor, summand] = normalisation(layer, channel);
      return ["normalised", `× ${shown(factor)} ${signed(summand)}`, shown(result)];
    }
    if (layer.kind !== "activation") return null;
    const from = layer.x.data[at];
    if (layer.function === "softmax") return ["softmax", `e^${shown(from)} of all ten`, percent(result)];
    return [layer.description, from < 0 ? "below nought" : "", shown(result)];
  }

  // ---- All of it together. ----

  class Hand {
    constructor(element) {
      const carried = JSON.parse(element.querySelector("script[type='application/json']").textContent);
      this.networks = carried.networks.map(readNetwork);
      this.isWhole = element.dataset.view === "whole";
      this.element = element;
      this.field = new Field(carried.samples, (image) => this.read(image));
      this.choices = this.networks.map((network, number) => this.choice(network, number));
      const choices = this.choices.map(({ element }) => element);
      this.spoken = make("p", { className: "hand-spoken", ariaLive: "polite" });
      const side = make("div", { className: "hand-side" }, this.answer());
      const desk = make("div", { className: "hand-desk" }, this.field.element, side);
      const body = make("div", { className: "hand-body" }, desk);
      element.append(body, this.spoken);
      palette.read(element);
      this.field.samples[7]?.click();
      if (this.isWhole) {
        this.inspector = new Inspector((number) => this.inspect(number));
        this.columns = make("div", { className: "hand-columns" });
        side.append(this.inspector.element);
        const list = make("fieldset", { className: "hand-choices" }, make("legend", {}, "Network"), ...choices);
        body.append(make("div", { className: "hand-main" }, list, this.options(), this.columns));
        this.show();
      } else {
        side.append(make("div", { className: "hand-choices" }, ...choices));
        side.append(make("a", { href: "draw.html" }, "See every number behind it"));
      }
      this.recolour();
      this.follow();
    }

    /** What the networks get, and what they say together. */
    answer() {
      const ariaLabel = "The 28 × 28 pixels that the networks get";
      this.seen = make("canvas", { className: "hand-seen", role: "img", ariaLabel });
      this.seenMark = newMark();
      this.big = make("strong", { className: "hand-answer" });
      this.words = make("p", { className: "hand-words" });
      const framed = make("div", { className: "hand-framed" }, this.seen, this.seenMark);
      return make("div", { className: "hand-read" }, framed, this.big, this.words);
    }

    /** A network to choose, or only to read, and what it says. */
    choice(network, number) {
      const radio = make("input", { type: "radio", name: "network", value: number, onchange: () => this.show() });
      radio.checked = network === this.smallest();
      const [said, bar] = [make("b"), make("i")];
      const misread = isTrained(network) && `${counted(network.wrong)} of ${counted(network.images)} misread`;
      const element = make(this.isWhole ? "label" : "div", { className: "hand-choice" }, this.isWhole ? radio : null,
        make("span", { className: "hand-name" }, network.label), said,
        make("small", {}, `${counted(network.trainable)} weights,`, make("br"), ` ${misread || "not trained"}`),
        make("span", { className: "hand-sure" }, bar));
      return { element, radio, said, bar };
    }

    smallest() {
      return this.networks.filter(isTrained).reduce((least, one) => (one.trainable < least.trainable ? one : least));
    }

    /** Which numbers the maps show, and which network stands beside the first. */
    options() {
      const option = (value, text) => make("option", { value }, text);
      const kinds = Object.entries(KINDS).map(([kind, text]) => option(kind, text));
      this.kind = make("select", { onchange: () => this.paintMaps() }, ...kinds);
      this.kind.value = "activation";
      this.beside = make("select", { onchange: () => this.show() }, option("", "nothing"),
        ...this.networks.map(({ label }, number) => option(number, label)));
      const legend = make("span", { className: "hand-legend", ariaHidden: "true" });
      legend.append("−", make("i"), "+", make("i"), "pruned");
      return make("div", { className: "hand-options" },
        make("label", {}, "Maps show ", this.kind), make("label", {}, "Beside it ", this.beside), legend);
    }

    /** Puts the chosen networks on the page. */
    show() {
      const numbers = [String(this.choices.findIndex(({ radio }) => radio.checked)), this.beside.value];
      const chosen = [...new Set(numbers)].filter(Boolean).map((number) => this.networks[number]);
      this.views = chosen.map((network) => new NetworkView(network, (...selected) => this.select(...selected)));
      this.columns.replaceChildren(...this.views.map(({ element }) => element));
      this.columns.classList.toggle("hand-two", this.views.length > 1);
      this.views.forEach((view) => view.paintWeights());
      this.selected = null;
      this.refresh();
      const [view] = this.views;
      this.selected = { view, selection: view.startOf(view.stages[1] ?? view.stages[0]) };
      this.inspect();
    }

    /** Asks for the networks to be run on an image before the page is drawn next. */
    read(image) {
      this.image = image;
      this.frameAsked ??= requestAnimationFrame(() => this.refresh());
    }

    /** Runs every network, and shows what came of it. */
    refresh() {
      this.frameAsked = null;
      const pixels = this.image?.pixels ?? new Float64Array(SIZE * SIZE);
      this.networks.forEach((network) => run(network, pixels));
      const { digit, big, words } = verdict(this.networks, this.image);
      this.big.textContent = big;
      this.words.textContent = words;
      this.element.classList.toggle("hand-none", digit === null);
      this.choices.forEach(({ said, bar }, number) => {
        const { probabilities } = this.networks[number];
        said.textContent = this.image ? best(probabilities) : "–";
        bar.style.width = this.image ? percent(Math.max(...probabilities)).replace(" ", "") : "0";
      });
      paintInk(this.seen, this.image?.pixels);
      this.paintMaps();
      clearTimeout(this.speaking);
      this.speaking = setTimeout(() => (this.spoken.textContent = words), 700);
    }

    paintMaps() {
      this.views?.forEach((view) => view.paint(this.kind.value));
      this.inspect();
    }

    select(view, selection, isSpoken) {
      this.selected = { view, selection };
      this.element.classList.add("hand-picked");
      const told = this.inspect();
      if (isSpoken) this.spoken.textContent = told;
    }

    /** Marks what is selected, and spells it out, perhaps with a tile that is picked; returns it in a few words. */
    inspect(picked) {
      if (!this.selected) return "";
      const { view, selection } = this.selected;
      let box = null;
      for (const other of this.views) {
        const isAlike = other === view || sameShapes(other, view);
        const found = other.mark(isAlike ? selection : null);
        if (other === view) box = found;
      }
      this.field.showBox(box);
      frame(this.seenMark, box, SIZE, SIZE);
      return this.inspector.show(view, selection, picked);
    }

    /** Takes the colours of the page, and its sizes. */
    recolour() {
      palette.read(this.element);
      this.field.recolour();
      this.views?.forEach((view) => view.paintWeights());
      this.refresh();
    }

    /** Follows the page when that turns dark or light, or wide or narrow. */
    follow() {
      const theme = new MutationObserver(() => this.recolour());
      theme.observe(document.documentElement, { attributeFilter: ["data-theme"] });
      let width = this.element.clientWidth;
      new ResizeObserver(() => {
        if (this.element.clientWidth === width) return;
        width = this.element.clientWidth;
        this.recolour();
      }).observe(this.element);
    }
  }

  const shapesOf = (view) => view.stages.map(({ rows, columns, channels }) => [rows, columns, channels]).join();
  const sameShapes = (one, other) => shapesOf(one) === shapesOf(other);

  smallcnn.hands = [...document.querySelectorAll(".hand")].map((element) => new Hand(element));
});
