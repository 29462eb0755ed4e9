// What the model saw, drawn from the prepared array: a picture, frames on a time line, planes of a scan.

import { choice, el } from "./dom.js";

/** The array of /v1/prepare: shape, values from 0 to 255, and the distance of neighbours per axis. */
export function unpack({ pixels, seen }) {
  const bytes = Uint8Array.from(atob(pixels.data), (one) => one.charCodeAt(0));
  const values = pixels.dtype === "float32" ? new Float32Array(bytes.buffer) : bytes;
  const [views, ...axes] = pixels.shape;
  const channels = axes.pop();
  return { views, axes, channels, values, seen };
}

/** Fill a canvas: ``index(row, column)`` is that of a pixel in the array. */
function paint(canvas, { values, channels }, rows, columns, index) {
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d"), image = context.createImageData(columns, rows);
  let to = 0;
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++, to += 4) {
      const from = index(row, column) * channels;
      for (let channel = 0; channel < 3; channel++) {
        image.data[to + channel] = values[from + (channels === 3 ? channel : 0)];
      }
      image.data[to + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
}

const canvasOf = (label) => el("canvas", { role: "img", "aria-label": label });
const caption = (...parts) => el("p", { class: "caption" }, parts.join(", "));

function slider(label, most, value, text, oninput) {
  const told = el("output", {}, text(value));
  const input = el("input", {
    type: "range", min: 0, max: most, value, "aria-label": label, "aria-valuetext": text(value),
    oninput: () => {
      input.setAttribute("aria-valuetext", text(+input.value));
      told.textContent = text(+input.value);
      oninput(+input.value);
    },
  });
  const move = (to) => {
    input.value = to;
    input.dispatchEvent(new Event("input"));
  };
  return { row: el("div", { class: "slider" }, input, told), move };
}

function picture(array) {
  const [height, width] = array.axes;
  const canvas = canvasOf(`The picture as the model saw it, ${width} by ${height} pixels`);
  paint(canvas, array, height, width, (row, column) => row * width + column);
  return [el("div", { class: "frame" }, canvas), caption(`${width} × ${height} pixels`, array.channels === 1 ? "grey" : "colour")];
}

const seconds = (value) => `${value.toFixed(2)}\u202fs`;

function clip(array) {
  const [frames, height, width] = array.axes, times = array.seen.seconds;
  const end = Math.max(...times.flat(), 0.001);
  const at = (view, frame) => (row, column) => ((view * frames + frame) * height + row) * width + column;
  const canvas = canvasOf("The frame that the slider is at, as the model saw it");
  const lanes = el("div", { class: "lanes", "aria-hidden": "true" }), strip = el("div", { class: "strip", "aria-hidden": "true" });
  let view = 0;
  const mover = slider("Frame", frames - 1, 0, (frame) => `${frame + 1} of ${frames}, at ${seconds(times[view][frame])}`, show);

  function show(frame) {
    paint(canvas, array, height, width, at(view, frame));
    for (const [where, dots] of [...lanes.children].entries()) {
      dots.classList.toggle("on", where === view);
      for (const [which, dot] of [...dots.children].entries()) dot.classList.toggle("on", where === view && which === frame);
    }
    for (const [which, small] of [...strip.children].entries()) small.classList.toggle("on", which === frame);
  }

  function choose(which) {
    view = which;
    strip.replaceChildren(...times[view].map((_, frame) => {
      const small = el("canvas", { onclick: () => mover.move(frame) });
      paint(small, array, height, width, at(view, frame));
      return small;
    }));
    mover.move(0);
  }

  for (const row of times) {
    lanes.append(el("div", {}, ...row.map((time) => {
      const dot = el("i");
      dot.style.insetInlineStart = `${(100 * time) / end}%`;
      return dot;
    })));
  }
  choose(0);
  const views = array.views > 1 &&
    choice("View of the clip", times.map((_, which) => [String(which), `View ${which + 1}`]), "0", (which) => choose(+which));
  return [
    el("div", { class: "frame" }, canvas), mover.row, strip,
    el("div", { class: "line" }, lanes, el("div", { class: "ends", "aria-hidden": "true" }, el("span", {}, "0 s"), el("span", {}, seconds(end)))),
    views,
    caption(`${array.views === 1 ? "One view" : `${array.views} views`} of ${frames} frames, ${width} × ${height} pixels`),
  ].filter(Boolean);
}

const OPPOSITE = { S: "I", I: "S", A: "P", P: "A", L: "R", R: "L" };

function scan(array) {
  const [depth, height, width] = array.axes, { orientation, spacing_mm: spacing, size } = array.seen;
  const steps = spacing ?? [1, 1, 1], [up, back, left] = orientation, at = array.axes.map((side) => side >> 1);
  const index = (d, h, w) => (d * height + h) * width + w;
  // Name, axis that the slider moves along, axes of rows and columns, letters at top, bottom, left, right.
  const planes = [
    ["Axial", 0, 1, 2, [OPPOSITE[back], back, OPPOSITE[left], left]],
    ["Coronal", 1, 0, 2, [up, OPPOSITE[up], OPPOSITE[left], left]],
    ["Sagittal", 2, 0, 1, [up, OPPOSITE[up], OPPOSITE[back], back]],
  ].map(([name, axis, rows, columns, letters]) => {
    const flips = rows === 0;  // the head is drawn at the top
    const canvas = canvasOf(`${name} plane of the scan as the model saw it, at the slider`);
    canvas.style.aspectRatio = (array.axes[columns] * steps[columns]) / (array.axes[rows] * steps[rows]);
    const lines = [el("i", { class: "across" }), el("i", { class: "down" })];
    const along = (axis_, value) => (100 * (value + 0.5)) / array.axes[axis_];
    const draw = () => paint(canvas, array, array.axes[rows], array.axes[columns], (row, column) => {
      const where = [...at];
      where[rows] = flips ? array.axes[rows] - 1 - row : row;
      where[columns] = column;
      return index(...where);
    });
    const mark = () => {
      const down = along(rows, at[rows]);
      lines[0].style.insetBlockStart = `${flips ? 100 - down : down}%`;
      lines[1].style.insetInlineStart = `${along(columns, at[columns])}%`;
    };
    const text = (slice) => `${slice + 1} of ${array.axes[axis]}${spacing ? `, ${Math.round(slice * steps[axis])} mm` : ""}`;
    const mover = slider(`${name} slice`, array.axes[axis] - 1, at[axis], text, (slice) => {
      at[axis] = slice;
      draw();
      planes.forEach((plane) => plane.mark());
    });
    const figure = el("figure", {}, el("figcaption", {}, name),
      el("div", { class: "plane" }, canvas, ...lines, ...["n", "s", "w", "e"].map((side, which) =>
        el("b", { class: side, "aria-hidden": "true" }, letters[which]))),
      mover.row);
    draw();
    return { figure, mark };
  });
  planes.forEach((plane) => plane.mark());
  return [
    el("div", { class: "planes" }, ...planes.map((plane) => plane.figure)),
    caption(`${depth} × ${height} × ${width} voxels from ${size.join(" × ")}`,
      spacing ? `${spacing.map((one) => one.toFixed(1)).join(" × ")} mm each` : "the file does not say how large they are"),
  ];
}

const DRAW = { image: picture, video: clip, volume: scan };

/** The parts that show a prepared input. */
export const drawn = (kind, prepared) => DRAW[kind](unpack(prepared));

/** A small canvas that stands for a clip or a scan: its middle. */
export function thumbnail(prepared) {
  const array = unpack(prepared), [height, width] = array.axes.slice(-2), canvas = el("canvas");
  const middle = array.axes.length === 3 ? (array.axes[0] >> 1) * height * width : 0;
  paint(canvas, array, height, width, (row, column) => middle + row * width + column);
  return canvas;
}
