// Points on a canvas, written pixel by pixel: 100,000 of them in a few milliseconds, with or without a graphics card.

const NEAR = 12; // pixels within which a point is meant

export class Plot {
  // points: { xy: Uint16Array, groups: Uint8Array, ids }; told: hover(place), open(place), lasso(corners)
  constructor(canvas, points, colours, told) {
    Object.assign(this, { canvas, points, told });
    this.count = points.ids.length;
    this.inks = (colours.length ? colours : ["#0072b2"]).map(ink);
    this.camera = { zoom: 1, x: 32767.5, y: 32767.5 };
    this.lit = null;
    this.chosen = null;
    this.loop = null;
    this.lassoes = false;
    this.fingers = new Map();
    this.frames = [];
  }

  start() {
    this.pen = this.canvas.getContext("2d", { alpha: false });
    this.watch = new ResizeObserver(() => this.ask());
    this.watch.observe(this.canvas);
    this.scheme = window.matchMedia("(prefers-color-scheme: dark)");
    this.repaint = () => this.ask();
    this.scheme.addEventListener("change", this.repaint);
    const on = (name, work, options) => this.canvas.addEventListener(name, work.bind(this), options);
    on("pointerdown", this.down);
    on("pointermove", this.move);
    on("pointerup", this.up);
    on("pointercancel", this.up);
    on("pointerleave", () => { if (!this.fingers.size) this.hover(null); });
    on("wheel", this.wheel, { passive: false });
    on("keydown", this.key);
    this.ask();
  }

  leave() {
    this.watch?.disconnect();
    this.scheme?.removeEventListener("change", this.repaint);
  }

  // Light up some items and dim the others; null lights all.
  light(ids) {
    const lit = ids && new Set(ids);
    this.lit = lit && Uint8Array.from(this.points.ids, (id) => (lit.has(id) ? 1 : 0));
    this.ask();
  }

  home() {
    this.camera = { zoom: 1, x: 32767.5, y: 32767.5 };
    this.ask();
  }

  ask() {
    this.asked ??= requestAnimationFrame(() => { this.asked = null; this.draw(); });
  }

  get scale() {
    const { clientWidth, clientHeight } = this.canvas;
    return ((Math.min(clientWidth, clientHeight) - 24) / 65535) * this.camera.zoom;
  }

  toScreen(x, y) {
    const { clientWidth, clientHeight } = this.canvas;
    return [clientWidth / 2 + (x - this.camera.x) * this.scale, clientHeight / 2 - (y - this.camera.y) * this.scale];
  }

  toMap(x, y) {
    const { clientWidth, clientHeight } = this.canvas;
    return [this.camera.x + (x - clientWidth / 2) / this.scale, this.camera.y - (y - clientHeight / 2) / this.scale];
  }

  draw() {
    const begin = performance.now();
    const { canvas, points: { xy, groups }, inks, lit } = this;
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
    if (!width || !height) return;
    if (canvas.width !== width || canvas.height !== height || !this.image) {
      [canvas.width, canvas.height] = [width, height];
      this.image = this.pen.createImageData(width, height);
      this.pixels = new Uint32Array(this.image.data.buffer);
    }
    const { pixels } = this;
    const [ground, faint] = this.scheme.matches ? [ink("#14191f"), ink("#39424e")] : [ink("#ffffff"), ink("#d5dbe4")];
    pixels.fill(ground);
    const usual = this.count <= 500 ? 4 : this.count <= 5000 ? 2.5 : this.count <= 30_000 ? 1.5 : 1;
    const radius = Math.min(usual * Math.sqrt(Math.sqrt(this.camera.zoom)), 6) * ratio;
    const stamp = disc(radius, width);
    const edge = Math.ceil(radius) + 1;
    const scale = this.scale * ratio;
    const [left, top] = [width / 2 - this.camera.x * scale, height / 2 + this.camera.y * scale];
    const paint = (place, colour, marks) => {
      const x = Math.round(left + xy[2 * place] * scale), y = Math.round(top - xy[2 * place + 1] * scale);
      if (x < edge || y < edge || x >= width - edge || y >= height - edge) return;
      const at = y * width + x;
      for (let mark = 0; mark < marks.length; mark += 1) pixels[at + marks[mark]] = colour;
    };
    const grouped = groups.length > 0;
    if (lit) {
      for (let place = 0; place < this.count; place += 1) if (!lit[place]) paint(place, faint, stamp);
      const large = disc(radius + ratio, width);
      for (let place = 0; place < this.count; place += 1) if (lit[place]) paint(place, inks[grouped ? groups[place] : 0], large);
    } else {
      for (let place = 0; place < this.count; place += 1) paint(place, inks[grouped ? groups[place] : 0], stamp);
    }
    this.pen.putImageData(this.image, 0, 0);
    this.overlay(ratio);
    this.frames = [...this.frames.slice(-59), performance.now() - begin];
    canvas.dataset.ms = (this.frames.reduce((a, b) => a + b, 0) / this.frames.length).toFixed(1);
  }

  overlay(ratio) {
    const { pen } = this;
    pen.save();
    pen.scale(ratio, ratio);
    pen.strokeStyle = this.scheme.matches ? "#e6eaf0" : "#1c2430";
    if (this.loop?.length > 2) {
      pen.beginPath();
      for (let corner = 0; corner < this.loop.length; corner += 2) pen.lineTo(...this.toScreen(this.loop[corner], this.loop[corner + 1]));
      if (!this.looping) pen.closePath();
      pen.lineWidth = 1.5;
      pen.setLineDash([5, 3]);
      pen.stroke();
      pen.setLineDash([]);
    }
    if (this.chosen !== null) {
      pen.beginPath();
      pen.arc(...this.toScreen(this.points.xy[2 * this.chosen], this.points.xy[2 * this.chosen + 1]), 8, 0, 2 * Math.PI);
      pen.lineWidth = 2;
      pen.stroke();
    }
    pen.restore();
  }

  nearest(x, y) {
    const { xy } = this.points;
    const [mapX, mapY] = this.toMap(x, y);
    let best = null, least = (NEAR / this.scale) ** 2;
    for (let place = 0; place < this.count; place += 1) {
      const distance = (xy[2 * place] - mapX) ** 2 + (xy[2 * place + 1] - mapY) ** 2;
      if (distance < least) [best, least] = [place, distance];
    }
    return best;
  }

  hover(place) {
    if (place === this.chosen) return;
    this.chosen = place;
    this.told.hover(place);
    this.ask();
  }

  down(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.fingers.set(event.pointerId, [event.offsetX, event.offsetY]);
    this.moved = 0;
    this.looping = (this.lassoes || event.shiftKey) && this.fingers.size === 1;
    if (this.looping) this.loop = [...this.toMap(event.offsetX, event.offsetY)];
  }

  move(event) {
    const before = this.fingers.get(event.pointerId);
    if (!before) return this.hover(this.nearest(event.offsetX, event.offsetY));
    const now = [event.offsetX, event.offsetY];
    this.moved += Math.abs(now[0] - before[0]) + Math.abs(now[1] - before[1]);
    if (this.looping) this.loop.push(...this.toMap(...now));
    else if (this.fingers.size === 2) this.pinch(event.pointerId, before, now);
    else {
      this.camera.x -= (now[0] - before[0]) / this.scale;
      this.camera.y += (now[1] - before[1]) / this.scale;
    }
    this.fingers.set(event.pointerId, now);
    return this.ask();
  }

  pinch(id, before, now) {
    const other = [...this.fingers].find(([one]) => one !== id)[1];
    const apart = (one) => Math.hypot(one[0] - other[0], one[1] - other[1]) || 1;
    this.zoomAt((now[0] + other[0]) / 2, (now[1] + other[1]) / 2, apart(now) / apart(before));
  }

  up(event) {
    this.fingers.delete(event.pointerId);
    if (this.looping) {
      this.looping = false;
      if (this.loop.length < 8) this.loop = null;
      const step = Math.max(1, Math.ceil((this.loop?.length ?? 0) / 2 / 60)); // corners that an address can hold
      this.loop = this.loop?.filter((_, place) => Math.floor(place / 2) % step === 0) ?? null;
      this.told.lasso(this.loop);
    } else if (this.moved < 5 && event.type === "pointerup") {
      const place = this.nearest(event.offsetX, event.offsetY);
      if (place !== null) { this.hover(place); this.told.open(place); }
    }
    this.ask();
  }

  zoomAt(x, y, factor) {
    const before = this.toMap(x, y);
    this.camera.zoom = Math.min(Math.max(this.camera.zoom * factor, 0.5), 400);
    const after = this.toMap(x, y);
    this.camera.x += before[0] - after[0];
    this.camera.y += before[1] - after[1];
    this.ask();
  }

  wheel(event) {
    event.preventDefault();
    this.zoomAt(event.offsetX, event.offsetY, Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)));
  }

  key(event) {
    const { clientWidth, clientHeight } = this.canvas;
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step) {
      this.walk ??= Uint32Array.from({ length: this.count }, (_, place) => place).sort((a, b) => this.points.xy[2 * a] - this.points.xy[2 * b]);
      const at = this.chosen === null ? (step > 0 ? -1 : 0) : this.walk.indexOf(this.chosen);
      this.hover(this.walk[(at + step + this.count) % this.count]);
    } else if (event.key === "Enter" && this.chosen !== null) this.told.open(this.chosen);
    else if (event.key === "+" || event.key === "=") this.zoomAt(clientWidth / 2, clientHeight / 2, 1.4);
    else if (event.key === "-") this.zoomAt(clientWidth / 2, clientHeight / 2, 1 / 1.4);
    else if (event.key === "Escape" && this.loop) { this.loop = null; this.told.lasso(null); }
    else return;
    event.preventDefault();
  }
}

// A colour as a canvas keeps it: red in the lowest byte.
function ink(colour) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

// Where the pixels of a disc lie, from its centre on.
function disc(radius, width) {
  const marks = [];
  for (let y = -Math.floor(radius); y <= radius; y += 1) {
    for (let x = -Math.floor(radius); x <= radius; x += 1) if (x * x + y * y <= radius * radius + 0.4) marks.push(y * width + x);
  }
  return Int32Array.from(marks);
}
