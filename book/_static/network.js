// The arithmetic of the networks, and images made from strokes; what draw.js shows is computed here.
"use strict";

(() => {
  const SIZE = 28; // of an image, in pixels
  const BOX = 20; // pixels that MNIST's digits were scaled to, the longer side
  const MIDDLE = SIZE / 2 + 0.5; // where their centres of mass are
  const LINE = { least: 2, most: 3.6 }; // how wide a line gets, in pixels; most lines of MNIST are

  // ---- Networks. A tensor is planar: channel after channel, each row by row. A vector is channels of one pixel. ----

  const decodeBytes = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));

  function tensor(shape) {
    const [rows, columns, channels] = shape.length === 1 ? [1, 1, shape[0]] : shape;
    const store = new Float64Array(rows * columns * channels + 2); // so that three numbers may be read from any place
    return { rows, columns, channels, store, data: store.subarray(0, -2) };
  }

  /** Reads a network as the page carries it; every layer gets its weights, its input `x` and its output `y`. */
  function readNetwork(record) {
    const numbers = new DataView(decodeBytes(record.weights).buffer);
    let position = 0;
    let x = tensor([SIZE, SIZE, 1]);
    const layers = record.layers.map((told) => {
      const weights = {};
      for (const [name, shape] of Object.entries(told.weights)) {
        const count = shape.reduce((product, length) => product * length, 1);
        weights[name] = Float64Array.from({ length: count }, (_, at) => numbers.getFloat32(4 * (position + at), true));
        position += count;
      }
      if (!(told.kind in RUN)) throw new Error(`this page cannot run a layer of the kind ${told.kind}`);
      const layer = { ...told, ...weights, x, y: tensor(told.output) };
      if (weights.kernel) {
        layer.window = layer.kernel_size || 1;
        layer.before = layer.padding === "same" ? (layer.window - 1) >> 1 : 0;
        layer.padded = layer.padding === "same" ? paddedFor(layer) : null;
        layer.kernel = channelsFirst(outputsFirst(weights.kernel, layer.y.channels), layer.window ** 2, x.channels);
      }
      x = layer.y;
      return layer;
    });
    return { ...record, layers, input: layers[0].x, probabilities: x.data };
  }

  /** Keras' order (…, out) turned into (out, …). */
  function outputsFirst(kernel, outputs) {
    const inputs = kernel.length / outputs;
    return kernel.map((_, at) => kernel[(at % inputs) * outputs + Math.floor(at / inputs)]);
  }

  /** (out, place, in) turned into (out, in, place). */
  function channelsFirst(kernel, places, channels) {
    return kernel.map((_, at) => {
      const place = at % places;
      const channel = Math.floor(at / places) % channels;
      return kernel[at - (at % (places * channels)) + place * channels + channel];
    });
  }

  const paddedFor = ({ x, window }) => tensor([x.rows + window - 1, x.columns + window - 1, x.channels]);

  /** The input of a layer with zeros around it. */
  function pad({ x, padded, before }) {
    for (let row = 0; row < x.rows * x.channels; row++) {
      const line = Math.floor(row / x.rows) * padded.rows + (row % x.rows) + before;
      const numbers = x.data.subarray(row * x.columns, (row + 1) * x.columns);
      padded.data.set(numbers, line * padded.columns + before);
    }
    return padded;
  }

  /** Sums window × kernel over all channels, and adds the bias; three weights of a row at a time, unless all are 0. */
  function convolve(layer) {
    const { x, y, kernel, bias, window } = layer;
    const source = layer.padded ? pad(layer) : x;
    const { store: from, columns: width } = source;
    const { data: to, rows, columns } = y;
    let weight = 0;
    for (let out = 0; out < y.channels; out++) {
      const target = out * rows * columns;
      to.fill(bias ? bias[out] : 0, target, target + rows * columns);
      for (let row = 0; row < x.channels * window; row++, weight += window) {
        const first = (Math.floor(row / window) * source.rows + (row % window)) * width;
        for (let right = 0; right < window; right += 3) {
          const one = kernel[weight + right];
          const two = right + 1 < window ? kernel[weight + right + 1] : 0;
          const three = right + 2 < window ? kernel[weight + right + 2] : 0;
          if (one === 0 && two === 0 && three === 0) continue;
          for (let down = 0; down < rows; down++) {
            const line = target + down * columns;
            const shift = first + down * width + right - line;
            for (let at = line; at < line + columns; at++) {
              to[at] += one * from[at + shift] + two * from[at + shift + 1] + three * from[at + shift + 2];
            }
          }
        }
      }
    }
  }

  /** Puts the largest number of each window in its place, or the mean. */
  function pool({ kind, x, y, size }) {
    let target = 0;
    for (let plane = 0; plane < y.channels; plane++) {
      for (let row = 0; row < y.rows; row++) {
        for (let column = 0; column < y.columns; column++) {
          let [sum, largest] = [0, -Infinity];
          for (let down = 0; down < size; down++) {
            const from = (plane * x.rows + row * size + down) * x.columns + column * size;
            for (let at = from; at < from + size; at++) {
              sum += x.data[at];
              if (x.data[at] > largest) largest = x.data[at];
            }
          }
          y.data[target++] = kind === "max_pooling" ? largest : sum / size ** 2;
        }
      }
    }
  }

  const mean = (numbers) => numbers.reduce((sum, number) => sum + number, 0) / numbers.length;

  function softmax(scores, target) {
    const highest = Math.max(...scores);
    let sum = 0;
    scores.forEach((score, at) => (sum += target[at] = Math.exp(score - highest)));
    target.forEach((value, at) => (target[at] = value / sum));
  }

  /** What a normalisation does to each channel, as value × factor + summand. */
  function normalisation({ gamma, beta, moving_mean, moving_variance, epsilon }, channel) {
    const factor = (gamma ? gamma[channel] : 1) / Math.sqrt(moving_variance[channel] + epsilon);
    return [factor, beta[channel] - moving_mean[channel] * factor];
  }

  /** How each kind of layer makes its output from its input. */
  const RUN = {
    convolution: convolve,
    dense: convolve,
    activation({ x, y, function: name, slope }) {
      if (name === "softmax") return softmax(x.data, y.data);
      const [from, to] = [x.data, y.data];
      for (let at = 0; at < to.length; at++) to[at] = from[at] > 0 ? from[at] : slope * from[at]; // no slope: ReLU
    },
    batch_normalisation(layer) {
      const { x, y } = layer;
      const [from, to] = [x.data, y.data];
      const pixels = y.rows * y.columns;
      for (let channel = 0; channel < y.channels; channel++) {
        const [factor, summand] = normalisation(layer, channel);
        for (let at = channel * pixels; at < (channel + 1) * pixels; at++) to[at] = from[at] * factor + summand;
      }
    },
    max_pooling: pool,
    average_pooling: pool,
    global_average_pooling({ x, y }) {
      const pixels = x.rows * x.columns;
      y.data.forEach((_, at) => (y.data[at] = mean(x.data.subarray(at * pixels, (at + 1) * pixels))));
    },
    flatten({ x, y }) {
      const pixels = x.rows * x.columns;
      y.data.forEach((_, at) => (y.data[at] = x.data[(at % x.channels) * pixels + Math.floor(at / x.channels)]));
    },
    dropout: ({ x, y }) => y.data.set(x.data), // only in training
  };

  /** Runs a network on an image of 784 numbers, 0 to 1; returns its ten probabilities. */
  function run(network, image) {
    network.input.data.set(image);
    for (const layer of network.layers) RUN[layer.kind](layer);
    return network.probabilities;
  }

  // ---- Ink: strokes, scaled and centred as MNIST's digits were. ----

  /** Draws strokes into 784 numbers, 0 to 1: how far each pixel is inside a line of this width, smoothly. */
  function rasterise(strokes, scale, left, top, width) {
    const image = new Float64Array(SIZE * SIZE);
    const reach = width / 2 + 0.5;
    for (const stroke of strokes) {
      for (let at = 0; at < stroke.length; at++) {
        const start = stroke[Math.max(at - 1, 0)];
        const [x0, y0] = [start[0] * scale + left, start[1] * scale + top];
        const [x1, y1] = [stroke[at][0] * scale + left, stroke[at][1] * scale + top];
        const [across, down] = [x1 - x0, y1 - y0];
        const length = across * across + down * down;
        const lastRow = Math.min(SIZE - 1, Math.max(y0, y1) + reach);
        const lastColumn = Math.min(SIZE - 1, Math.max(x0, x1) + reach);
        for (let row = Math.max(0, Math.floor(Math.min(y0, y1) - reach)); row <= lastRow; row++) {
          for (let column = Math.max(0, Math.floor(Math.min(x0, x1) - reach)); column <= lastColumn; column++) {
            const [x, y] = [column + 0.5 - x0, row + 0.5 - y0];
            const along = length ? Math.min(1, Math.max(0, (x * across + y * down) / length)) : 0;
            const ink = reach - Math.hypot(x - along * across, y - along * down);
            if (ink > image[row * SIZE + column]) image[row * SIZE + column] = Math.min(1, ink);
          }
        }
      }
    }
    return image;
  }

  function centreOfMass(image) {
    let [mass, x, y] = [0, 0, 0];
    image.forEach((ink, at) => {
      mass += ink;
      x += ink * ((at % SIZE) + 0.5);
      y += ink * (Math.floor(at / SIZE) + 0.5);
    });
    return [x / mass, y / mass];
  }

  /** The image of strokes, with their place in it: a point's is scale × point + (left, top). Nothing of no strokes. */
  function imageOf(strokes, pen) {
    const points = strokes.flat();
    if (!points.length) return null;
    const [first, last] = [Math.min, Math.max].map((pick) => [0, 1].map((axis) => pick(...points.map((p) => p[axis]))));
    const extent = Math.max(last[0] - first[0], last[1] - first[1]);
    const width = Math.min(LINE.most, Math.max(LINE.least, (pen * BOX) / (extent + pen)));
    const scale = Math.min((BOX - width) / Math.max(extent, 1e-9), BOX / pen);
    const inMiddle = [0, 1].map((axis) => MIDDLE - (scale * (first[axis] + last[axis])) / 2);
    const centre = centreOfMass(rasterise(strokes, scale, ...inMiddle, width));
    const [left, top] = [0, 1].map((axis) => inMiddle[axis] + MIDDLE - centre[axis]);
    return { pixels: rasterise(strokes, scale, left, top, width), scale, left, top };
  }

  // ---- Where a number comes from. ----

  /** The pixels of a layer's input that a box of pixels of its output is made from; rows and columns from, to. */
  function boxBehind(layer, { top, left, bottom, right }) {
    const { rows, columns } = layer.x;
    if (layer.kind === "convolution") {
      const further = layer.window - 1 - layer.before;
      [top, left, bottom, right] = [top - layer.before, left - layer.before, bottom + further, right + further];
    } else if (layer.size) {
      [top, left, bottom, right] = [top, left, bottom + 1, right + 1].map((edge) => edge * layer.size);
      [bottom, right] = [bottom - 1, right - 1];
    } else if (layer.y.rows * layer.y.columns < rows * columns) {
      return { top: 0, left: 0, bottom: rows - 1, right: columns - 1 };
    }
    return {
      top: Math.max(top, 0), left: Math.max(left, 0),
      bottom: Math.min(bottom, rows - 1), right: Math.min(right, columns - 1),
    };
  }

  /** The numbers that one number of a layer is made from, tile by tile: values, and weights if it has some. */
  function tilesBehind(layer, channel, row, column) {
    const { x, kernel, window, before, picture, size } = layer;
    const pixel = (from, down, right) => {
      const isInside = down >= 0 && right >= 0 && down < x.rows && right < x.columns;
      return isInside ? x.data[(from * x.rows + down) * x.columns + right] : 0;
    };
    if (layer.kind === "dense" && picture) {
      const number = (tile, down, right) => (down * picture.columns + right) * picture.channels + tile;
      return tiles(picture.channels, picture, (tile, down, right) => {
        const at = number(tile, down, right);
        return [x.data[at], kernel[channel * x.channels + at]];
      });
    }
    if (kernel) {
      return tiles(x.channels, { rows: window, columns: window }, (tile, down, right) => [
        pixel(tile, row + down - before, column + right - before),
        kernel[((channel * x.channels + tile) * window + down) * window + right],
      ]);
    }
    if (layer.kind === "flatten") {
      const place = Math.floor(channel / x.channels);
      return tiles(1, ONE, () => [pixel(channel % x.channels, Math.floor(place / x.columns), place % x.columns)]);
    }
    if (!size && layer.kind !== "global_average_pooling") return tiles(1, ONE, () => [pixel(channel, row, column)]);
    const [rows, columns] = size ? [size, size] : [x.rows, x.columns];
    return tiles(1, { rows, columns }, (_, down, right) =>
      [pixel(channel, row * rows + down, column * columns + right)]);
  }

  const ONE = { rows: 1, columns: 1 };

  function tiles(count, { rows, columns }, numbers) {
    return Array.from({ length: count }, (_, tile) => {
      const both = Array.from({ length: rows * columns }, (_, at) =>
        numbers(tile, Math.floor(at / columns), at % columns));
      const [values, weights] = [both.map((pair) => pair[0]), both.map((pair) => pair[1])];
      const isWeighted = weights[0] !== undefined;
      const sum = values.reduce((sum, value, at) => sum + value * (isWeighted ? weights[at] : 1), 0);
      return { rows, columns, values, weights: isWeighted ? weights : null, sum };
    });
  }

  // Each of these begins a stage of a network as it is shown; what follows changes its numbers one by one.
  const MAKES_MAPS = ["convolution", "max_pooling", "average_pooling", "global_average_pooling", "flatten", "dense"];

  /** Groups the layers: what makes maps, with what then happens to each of their numbers. */
  function stagesOf(network) {
    const stages = [];
    network.layers.forEach((layer, at) => {
      const last = stages[stages.length - 1];
      if (layer.kind === "dense" && last?.layers[0].kind === "flatten" && last.layers.every(changesNothing)) {
        layer.picture = last.layers[0].x;
        stages.pop();
        stages.push({ layers: [layer], at, source: last.layers[0].x });
      } else if (!last || MAKES_MAPS.includes(layer.kind)) {
        stages.push({ layers: [layer], at, source: layer.x });
      } else {
        last.layers.push(layer);
      }
    });
    return stages;
  }

  const changesNothing = (layer) => layer.kind === "flatten" || layer.kind === "dropout";

  /** What each pixel before a dense layer adds to one of its outputs, over all channels. */
  function evidenceOf(layer, channel) {
    const behind = tilesBehind(layer, channel, 0, 0);
    return behind[0].values.map((_, at) =>
      behind.reduce((sum, { values, weights }) => sum + values[at] * weights[at], 0));
  }

  // ---- What the networks say together. ----

  const AGREED = 0.75; // of the networks' probabilities, on average: below, they agree on no digit

  const best = (shares) => shares.indexOf(Math.max(...shares));

  /** What the trained networks say together. */
  function verdict(networks, image) {
    if (!image) return { digit: null, big: "–", words: "Nothing is drawn yet." };
    const trained = networks.filter(isTrained);
    const share = (digit) => mean(trained.map(({ probabilities }) => probabilities[digit]));
    const shares = Array.from({ length: 10 }, (_, digit) => share(digit));
    const digit = best(shares);
    const said = trained.map(({ probabilities }) => best(probabilities));
    if (shares[digit] < AGREED) {
      return { digit: null, big: "?", words: `Not a digit, or no clear one: the networks say ${said.join(", ")}.` };
    }
    const agreeing = said.filter((one) => one === digit).length;
    const all = agreeing === said.length ? "All" : `${agreeing} of`;
    return { digit, big: String(digit), words: `${all} ${said.length} networks read a ${digit}.` };
  }

  const isTrained = ({ wrong }) => wrong !== null;

  window.smallcnn = {
    SIZE, decodeBytes, readNetwork, run, normalisation, imageOf,
    boxBehind, tilesBehind, evidenceOf, stagesOf, best, isTrained, verdict,
  };
})();
