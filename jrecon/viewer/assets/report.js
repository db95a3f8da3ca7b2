// One mesh, points and lines on a turntable, in plain WebGL. The scene is in the frame of a camera
// that looks along +z with y down; it is drawn with y up, so (x, y, z) becomes (x, -y, -z).
"use strict";
(() => {
const scene = JSON.parse(document.getElementById("scene").textContent);
const canvas = document.getElementById("view");
const controls = document.getElementById("controls");
const gl = canvas.getContext("webgl", { antialias: true });
if (!gl) {
  document.getElementById("trouble").hidden = false;
  canvas.hidden = true;
  return;
}

// Data ---------------------------------------------------------------------------------------

const decode = (text, Kind) => new Kind(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);

/** Positions as they are drawn: y up, metres. They come as floats, or as whole millimetres. */
function upright(values, unit) {
  const out = new Float32Array(values.length);
  for (let i = 0; i < values.length; i++) out[i] = values[i] * (i % 3 ? -unit : unit);
  return out;
}

/** Normals of vertices: those of the faces around them, by area. */
function normalsOf(positions, faces) {
  const out = new Float32Array(positions.length);
  const at = (i, axis) => positions[3 * i + axis];
  for (let f = 0; f < faces.length; f += 3) {
    const [a, b, c] = [faces[f], faces[f + 1], faces[f + 2]];
    const u = [0, 1, 2].map((k) => at(b, k) - at(a, k));
    const v = [0, 1, 2].map((k) => at(c, k) - at(a, k));
    const n = cross(u, v);
    for (const corner of [a, b, c]) for (let k = 0; k < 3; k++) out[3 * corner + k] += n[k];
  }
  return out;
}

const cross = (a, b) => [
  a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0],
];
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const unit = (a) => a.map((x) => x / (Math.hypot(...a) || 1));

// Drawing ------------------------------------------------------------------------------------

function program(vertex, fragment) {
  const made = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, "precision highp float;" + source);
    gl.compileShader(shader);
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made));
  return made;
}

const surfaceProgram = program(
  `attribute vec3 position, normal, color; uniform mat4 place; uniform vec3 eye;
   varying vec3 n, toEye, tone;
   void main() { n = normal; toEye = eye - position; tone = color;
     gl_Position = place * vec4(position, 1.0); }`,
  `varying vec3 n, toEye, tone;
   void main() {
     vec3 e = normalize(toEye), m = normalize(n); m = dot(m, e) < 0.0 ? -m : m;
     float key = max(dot(m, normalize(e + vec3(-0.5, 0.7, 0.0))), 0.0);
     gl_FragColor = vec4(tone * (0.38 + 0.46 * key + 0.2 * dot(m, e)), 1.0); }`);
const plainProgram = program(
  `attribute vec3 position; uniform mat4 place; uniform float size;
   void main() { gl_Position = place * vec4(position, 1.0); gl_PointSize = size; }`,
  `uniform vec3 tone; void main() { gl_FragColor = vec4(tone, 1.0); }`);

function buffer(data, target = gl.ARRAY_BUFFER) {
  const made = gl.createBuffer();
  gl.bindBuffer(target, made);
  gl.bufferData(target, data, gl.STATIC_DRAW);
  return made;
}

function attribute(prog, name, data, type = gl.FLOAT) {
  const at = gl.getAttribLocation(prog, name);
  gl.bindBuffer(gl.ARRAY_BUFFER, data);
  gl.enableVertexAttribArray(at);
  gl.vertexAttribPointer(at, 3, type, type === gl.UNSIGNED_BYTE, 0, 0);
}

const positions = upright(decode(scene.vertices, Float32Array), 1);
const faces = decode(scene.faces, scene.wide ? Uint32Array : Uint16Array);
if (scene.wide) gl.getExtension("OES_element_index_uint");
const surface = {
  positions: buffer(positions),
  normals: buffer(normalsOf(positions, faces)),
  faces: buffer(faces, gl.ELEMENT_ARRAY_BUFFER),
  colors: Object.fromEntries(
    Object.entries(scene.colors).map(([name, text]) => [name, buffer(decode(text, Uint8Array))])),
};
const rgb = (color) => color.map((x) => x / 255);
const plain = (values, unit, mode, color, size) => {
  const data = upright(values, unit);
  return { data: buffer(data), count: data.length / 3, mode, color: rgb(color), size };
};
const layers = {
  own: plain(decode(scene.own, Int16Array), 1e-3, gl.POINTS, scene.tones.own, 2.2),
  other: plain(decode(scene.other, Int16Array), 1e-3, gl.POINTS, scene.tones.other, 1.6),
  bones: plain(decode(scene.bones, Float32Array), 1, gl.LINES, scene.tones.bones, 1),
  camera: plain(decode(scene.camera, Float32Array), 1, gl.LINES, [60, 64, 72], 1),
};

// The turntable: angles in radians, the point that it turns about, and the distance from it.
const low = [Infinity, Infinity, Infinity], high = [-Infinity, -Infinity, -Infinity];
positions.forEach((x, i) => {
  low[i % 3] = Math.min(low[i % 3], x);
  high[i % 3] = Math.max(high[i % 3], x);
});
const middle = low.map((x, k) => (x + high[k]) / 2);
const radius = Math.hypot(...low.map((x, k) => high[k] - x)) / 2 || 1;
const orbit = { azimuth: 0.5, elevation: 0.12, distance: 2.7 * radius, target: [...middle] };
const OPENING = 0.75;

function eyePoint() {
  const c = Math.cos(orbit.elevation);
  const away = [c * Math.sin(orbit.azimuth), Math.sin(orbit.elevation), c * Math.cos(orbit.azimuth)];
  return orbit.target.map((x, k) => x + orbit.distance * away[k]);
}

/** Right, up and backward of the eye, which never tilts to a side. */
function axesOf(eye) {
  const back = unit(eye.map((x, k) => x - orbit.target[k]));
  const right = unit(cross([0, 1, 0], back));
  return [right, cross(back, right), back];
}

/** From the scene to clip space, column by column. */
function placeMatrix(eye, axes) {
  const f = 1 / Math.tan(OPENING / 2), aspect = canvas.width / canvas.height;
  const near = 0.02 * radius, far = orbit.distance + 60;
  const [x, y] = aspect < 1 ? [f, f * aspect] : [f / aspect, f];
  const depth = [(far + near) / (near - far), (2 * far * near) / (near - far)];
  const rows = axes.map((axis) => [...axis, -dot(axis, eye)]);
  const clip = [
    rows[0].map((v) => v * x), rows[1].map((v) => v * y),
    rows[2].map((v, i) => v * depth[0] + (i === 3 ? depth[1] : 0)), rows[2].map((v) => -v),
  ];
  return new Float32Array([0, 1, 2, 3].flatMap((column) => clip.map((row) => row[column])));
}

let waiting = false;
function redraw() {
  if (!waiting) requestAnimationFrame(draw);
  waiting = true;
}

function draw() {
  waiting = false;
  const density = window.devicePixelRatio || 1;
  canvas.width = Math.round(canvas.clientWidth * density);
  canvas.height = Math.round(canvas.clientHeight * density);
  gl.viewport(0, 0, canvas.width, canvas.height);
  gl.clearColor(0.933, 0.941, 0.953, 1);
  gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
  gl.enable(gl.DEPTH_TEST);
  const eye = eyePoint(), place = placeMatrix(eye, axesOf(eye));
  if (surface.colors[controls.surface.value]) drawSurface(eye, place);
  for (const [name, layer] of Object.entries(layers)) {
    if (controls[name].checked) drawPlain(layer, place, density, name === "bones");
  }
}

function drawSurface(eye, place) {
  gl.useProgram(surfaceProgram);
  gl.uniformMatrix4fv(gl.getUniformLocation(surfaceProgram, "place"), false, place);
  gl.uniform3fv(gl.getUniformLocation(surfaceProgram, "eye"), eye);
  attribute(surfaceProgram, "position", surface.positions);
  attribute(surfaceProgram, "normal", surface.normals);
  attribute(surfaceProgram, "color", surface.colors[controls.surface.value], gl.UNSIGNED_BYTE);
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, surface.faces);
  gl.drawElements(gl.TRIANGLES, faces.length, scene.wide ? gl.UNSIGNED_INT : gl.UNSIGNED_SHORT, 0);
}

function drawPlain(layer, place, density, through) {
  if (through) gl.clear(gl.DEPTH_BUFFER_BIT);  // Bones show through the skin.
  gl.useProgram(plainProgram);
  gl.uniformMatrix4fv(gl.getUniformLocation(plainProgram, "place"), false, place);
  gl.uniform3fv(gl.getUniformLocation(plainProgram, "tone"), layer.color);
  gl.uniform1f(gl.getUniformLocation(plainProgram, "size"), layer.size * density);
  attribute(plainProgram, "position", layer.data);
  gl.drawArrays(layer.mode, 0, layer.count);
}

// Hands on -----------------------------------------------------------------------------------

function turn(dx, dy) {
  orbit.azimuth -= dx;
  orbit.elevation = Math.max(-1.55, Math.min(1.55, orbit.elevation + dy));
  redraw();
}

function shift(dx, dy) {
  const [right, up] = axesOf(eyePoint());
  const step = (2 * orbit.distance * Math.tan(OPENING / 2)) / canvas.clientHeight;
  orbit.target = orbit.target.map((x, k) => x + step * (dy * up[k] - dx * right[k]));
  redraw();
}

function zoom(factor) {
  orbit.distance = Math.max(0.1 * radius, Math.min(40 * radius, orbit.distance * factor));
  redraw();
}

const fingers = new Map();
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, [event.clientX, event.clientY]);
});
canvas.addEventListener("pointermove", (event) => {
  const before = fingers.get(event.pointerId);
  if (!before) return;
  const now = [event.clientX, event.clientY];
  const [dx, dy] = [now[0] - before[0], now[1] - before[1]];
  const others = [...fingers].filter(([id]) => id !== event.pointerId).map(([, where]) => where);
  fingers.set(event.pointerId, now);
  if (others.length) {
    const apart = (where) => Math.hypot(where[0] - others[0][0], where[1] - others[0][1]) || 1;
    zoom(apart(before) / apart(now));
    shift(dx / 2, dy / 2);
  } else if (event.shiftKey || event.buttons === 2) shift(dx, dy);
  else turn(dx * 0.008, dy * 0.008);
});
for (const kind of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(kind, (event) => fingers.delete(event.pointerId));
}
canvas.addEventListener("contextmenu", (event) => event.preventDefault());
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(Math.exp(Math.sign(event.deltaY) * 0.12));
}, { passive: false });
const KEYS = {
  ArrowLeft: () => turn(0.1, 0), ArrowRight: () => turn(-0.1, 0),
  ArrowUp: () => turn(0, 0.1), ArrowDown: () => turn(0, -0.1),
  "+": () => zoom(0.9), "-": () => zoom(1.1),
};
canvas.addEventListener("keydown", (event) => {
  if (!KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
});

const FROM = { side: [Math.PI / 2, 0.05], behind: [Math.PI, 0.05], above: [0, 1.5] };
function lookFrom(name) {
  orbit.target = [...middle];
  if (name === "camera") {
    orbit.distance = Math.hypot(...middle);
    orbit.azimuth = Math.atan2(-middle[0], -middle[2]);
    orbit.elevation = Math.asin(-middle[1] / orbit.distance);
  } else {
    [orbit.azimuth, orbit.elevation] = FROM[name];
    orbit.distance = 2.7 * radius;
  }
  redraw();
}
for (const button of document.querySelectorAll("[data-from]")) {
  button.addEventListener("click", () => lookFrom(button.dataset.from));
}

function explain() {
  const legend = scene.legends[controls.surface.value];
  const scale = document.getElementById("scale");
  scale.hidden = !legend;
  document.getElementById("meaning").textContent = legend ? legend.text : "";
  if (!legend) return;
  const [from, bar, to] = scale.children;
  from.textContent = legend.low;
  to.textContent = legend.high;
  bar.style.background = `linear-gradient(to right, ${legend.colors.join(", ")})`;
}
controls.addEventListener("input", () => { explain(); redraw(); });
window.addEventListener("resize", redraw);
explain();
redraw();
})();
