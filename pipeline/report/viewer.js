// Slice viewer of the report: three planes through one cursor, for one or two layers at a time.
// It uses nothing but the browser; the volumes lie in the page, compressed.
(() => {
  "use strict";
  const root = document.getElementById("slices");
  const meta = JSON.parse(document.getElementById("slices-meta").textContent);
  const [nz, ny, nx] = meta.shape;
  const size = { x: nx, y: ny, z: nz };
  const stride = { x: 1, y: nx, z: nx * ny };
  const count = nx * ny * nz;
  // The axis named first runs to the right, the second one upwards; as in the pictures below.
  const PLANES = [["x", "y", "z"], ["z", "y", "x"], ["x", "z", "y"]];
  const cursor = { x: meta.cursor[2], y: meta.cursor[1], z: meta.cursor[0] };
  const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

  async function unpack(id) {
    const packed = bytesOf(document.getElementById(id).textContent);
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  // Numbers ---------------------------------------------------------------------------------------

  function value(layer, k) {
    const d = layer.data;
    if (layer.kind === "axis" || layer.kind === "vector") {
      const at = (part) => (((d[part * count + k] << 24) >> 24) / 127) * layer.top;
      return [at(0), at(1), at(2)];
    }
    const q = d[k] + 256 * d[count + k];
    if (layer.kind === "label") return q;
    return q === 0 ? NaN : layer.low + ((q - 1) / (layer.levels - 1)) * (layer.high - layer.low);
  }

  function digits(number) {
    return Number.isFinite(number) ? String(Number(number.toPrecision(4))) : "–";
  }

  function words(layer, k) {
    const found = value(layer, k);
    const unit = layer.unit ? " " + layer.unit : "";
    if (layer.kind === "label") return found === 0 ? "none" : (layer.names[found - 1] || String(found));
    if (layer.kind === "scalar") return digits(found) + (Number.isFinite(found) ? unit : "");
    const length = Math.hypot(...found);
    if (length < 0.004 * layer.top) return "–";
    const text = ["x", "y", "z"].map((n, i) => n + " " + found[i].toFixed(2)).join(", ");
    return layer.kind === "axis" ? "± (" + text + ")" : text + unit;
  }

  // Colours: the same as in pipeline/report/colours.py --------------------------------------------

  function fromLab(L, a, b) {
    const fy = (L + 16) / 116, fx = a / 500 + fy, fz = Math.max(0, fy - b / 200);
    const back = (t) => (t > 0.2068966 ? t * t * t : (t - 16 / 116) / 7.787);
    const X = 0.95047 * back(fx), Y = back(fy), Z = 1.08883 * back(fz);
    const linear = [
      3.24048134 * X - 1.53715152 * Y - 0.49853633 * Z,
      -0.96925495 * X + 1.87599 * Y + 0.04155593 * Z,
      0.05564664 * X - 0.20404134 * Y + 1.05731107 * Z,
    ];
    return linear.map((c) => {
      const s = c > 0.0031308 ? 1.055 * Math.pow(c, 1 / 2.4) - 0.055 : 12.92 * c;
      return 255 * Math.min(1, Math.max(0, s));
    });
  }

  function axisColour([x, y, z]) {
    if (Math.hypot(x, y, z) <= 0.5) return [255, 255, 255];
    const along = y * y - x * x;
    const green = 56 * z * z + 6 * Math.max(0, along) - 4 * Math.abs(along);
    return fromLab(60 + 54 * x * y, green, 58 * along - 10 * z * z);
  }

  function vectorColour(right, up, out) {
    if (Math.abs(right) + Math.abs(up) + Math.abs(out) < 1e-6) return [255, 255, 255];
    return fromLab(58 + 24 * out, 55 * right, 55 * up);
  }

  function colour(layer, k, plane) {
    const found = value(layer, k);
    if (layer.kind === "axis") return axisColour(found);
    if (layer.kind === "vector") {
      const part = (name) => Math.max(-1, Math.min(1, found["xyz".indexOf(name)] / layer.top));
      return vectorColour(part(plane[0]), part(plane[1]), part(plane[2]));
    }
    const lut = layer.colours, n = lut.length / 3;
    let row;
    if (layer.kind === "label") row = found === 0 ? 0 : 1 + ((found - 1) % (n - 1));
    else if (Number.isNaN(found)) return [255, 255, 255];
    else {
      const share = (found - layer.window[0]) / (layer.window[1] - layer.window[0]);
      row = Math.max(0, Math.min(n - 1, Math.round(share * (n - 1))));
    }
    return [lut[3 * row], lut[3 * row + 1], lut[3 * row + 2]];
  }

  // Pictures --------------------------------------------------------------------------------------

  function image(layer, plane) {
    const [across, up, normal] = plane;
    const w = size[across], h = size[up];
    const picture = new ImageData(w, h);
    for (let j = 0; j < h; j++) {
      let k = cursor[normal] * stride[normal] + j * stride[up];
      let at = 4 * (h - 1 - j) * w;
      for (let i = 0; i < w; i++, k += stride[across], at += 4) {
        const c = colour(layer, k, plane);
        picture.data[at] = c[0];
        picture.data[at + 1] = c[1];
        picture.data[at + 2] = c[2];
        picture.data[at + 3] = 255;
      }
    }
    return picture;
  }

  const place = (name, index) => (meta.first["xyz".indexOf(name)] + index * meta.step) * meta.scale;
  const shown = (name, index) => place(name, index).toFixed(meta.unit === "µm" ? 3 : 0);

  function scaleBar(pen, w, h, ratio) {
    const perUnit = w / meta.step / meta.scale;
    let length = Math.pow(10, Math.floor(Math.log10((0.35 * pen.canvas.width) / perUnit)));
    for (const more of [5, 2]) {
      if (more * length * perUnit <= 0.35 * pen.canvas.width) { length *= more; break; }
    }
    const wide = length * perUnit, y = h - 9 * ratio, x = 9 * ratio;
    pen.fillStyle = "rgba(255,255,255,.8)";
    pen.fillRect(x - 4 * ratio, y - 16 * ratio, Math.max(wide, 46 * ratio) + 8 * ratio, 22 * ratio);
    pen.fillStyle = "#222831";
    pen.fillRect(x, y, wide, 2.5 * ratio);
    pen.font = 11 * ratio + "px system-ui,sans-serif";
    pen.fillText(Number(length.toPrecision(1)) + " " + meta.unit, x, y - 4 * ratio);
  }

  function paint(view) {
    const { canvas, layer, plane } = view;
    const [across, up] = plane;
    const pen = canvas.getContext("2d");
    const picture = image(layer, plane);
    const small = document.createElement("canvas");
    small.width = picture.width;
    small.height = picture.height;
    small.getContext("2d").putImageData(picture, 0, 0);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(small, 0, 0, canvas.width, canvas.height);
    const ratio = canvas.width / canvas.clientWidth || 1;
    const step = canvas.width / picture.width;
    const x = (cursor[across] + 0.5) * step, y = canvas.height - (cursor[up] + 0.5) * step;
    for (const [width, ink] of [[3 * ratio, "rgba(255,255,255,.75)"], [ratio, "#222831"]]) {
      pen.lineWidth = width;
      pen.strokeStyle = ink;
      pen.beginPath();
      pen.moveTo(x, 0); pen.lineTo(x, y - 7 * ratio);
      pen.moveTo(x, y + 7 * ratio); pen.lineTo(x, canvas.height);
      pen.moveTo(0, y); pen.lineTo(x - 7 * ratio, y);
      pen.moveTo(x + 7 * ratio, y); pen.lineTo(canvas.width, y);
      pen.stroke();
    }
    if (view.bar) scaleBar(pen, step, canvas.height, ratio);
  }

  function key(layer, canvas) {
    const pen = canvas.getContext("2d"), n = canvas.width;
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, n, canvas.height);
    pen.fillStyle = "#222831";
    pen.font = "20px system-ui,sans-serif";
    if (layer.kind === "scalar") {
      for (let j = 0; j < 200; j++) {
        const row = Math.round((1 - j / 199) * (layer.colours.length / 3 - 1));
        pen.fillStyle = "rgb(" + layer.colours.slice(3 * row, 3 * row + 3).join(",") + ")";
        pen.fillRect(8, 30 + j, 34, 1.5);
      }
      pen.fillStyle = "#222831";
      [layer.window[1], (layer.window[0] + layer.window[1]) / 2, layer.window[0]].forEach((v, i) =>
        pen.fillText(String(Number(v.toPrecision(3))), 54, 38 + 99 * i));
      pen.fillText(layer.unit, 8, 264);
    } else if (layer.kind === "label") {
      layer.names.slice(0, 9).forEach((name, i) => {
        pen.fillStyle = "rgb(" + layer.colours.slice(3 * i + 3, 3 * i + 6).join(",") + ")";
        pen.fillRect(8, 20 + 30 * i, 20, 20);
        pen.fillStyle = "#222831";
        pen.fillText(name.slice(0, 16), 38, 37 + 30 * i);
      });
      if (!layer.names.length) ["each number", "has its own", "colour"].forEach((t, i) => pen.fillText(t, 8, 40 + 26 * i));
    } else {
      const m = 84, disc = pen.createImageData(2 * m + 1, 2 * m + 1);
      for (let j = -m; j <= m; j++) for (let i = -m; i <= m; i++) {
        const u = i / m, v = j / m, r = Math.hypot(u, v);
        let c = [255, 255, 255];
        if (r <= 1 && layer.kind === "vector") c = vectorColour(u, v, 0);
        else if (r <= 1) {
          // Equal-area projection of the half sphere of axes, seen along z.
          const t = 2 * Math.asin(r / Math.SQRT2), p = Math.atan2(v, u);
          c = axisColour([Math.sin(t) * Math.cos(p), Math.sin(t) * Math.sin(p), Math.cos(t)]);
        }
        disc.data.set([c[0], c[1], c[2], 255], 4 * ((m - j) * (2 * m + 1) + m + i));
      }
      pen.putImageData(disc, 6, 40);
      pen.fillStyle = "#222831";
      pen.strokeStyle = "#9aa1ab";
      pen.beginPath();
      pen.arc(6 + m, 40 + m, m, 0, 2 * Math.PI);
      pen.stroke();
      if (layer.kind === "axis") {
        pen.fillText("y", m, 30); pen.fillText("x", 2 * m + 12, 46 + m); pen.fillText("z", m + 12, 46 + m);
        pen.fillText("axis, sign-free", 24, 244);
      } else {
        pen.fillText("in the slice", 36, 28);
        pen.fillText("light: towards", 24, 244); pen.fillText("+ normal", 48, 266);
      }
      pen.beginPath();
      pen.arc(6 + m, 40 + m, 3, 0, 2 * Math.PI);
      pen.fill();
    }
  }

  // The page --------------------------------------------------------------------------------------

  function element(tag, attributes, ...inside) {
    const made = document.createElement(tag);
    for (const [name, text] of Object.entries(attributes)) made.setAttribute(name, text);
    made.append(...inside);
    return made;
  }

  const rows = [];
  const views = [];
  const sliders = {};
  const readout = element("table", { class: "readout" });

  function move(changes) {
    for (const [name, index] of Object.entries(changes)) {
      cursor[name] = Math.max(0, Math.min(size[name] - 1, Math.round(index)));
      if (sliders[name]) sliders[name].value = cursor[name];
    }
    refresh();
  }

  function refresh() {
    views.forEach(paint);
    const k = cursor.z * stride.z + cursor.y * stride.y + cursor.x;
    const lines = [["position", ["x", "y", "z"].map((n) => n + " " + shown(n, cursor[n])).join(", ") + " " + meta.unit]];
    for (const layer of meta.layers) lines.push([layer.title, words(layer, k)]);
    readout.replaceChildren(...lines.map(([name, text]) =>
      element("tr", {}, element("th", {}, name), element("td", {}, text))));
    for (const name of "zyx") sliders[name].parentNode.lastChild.textContent = shown(name, cursor[name]) + " " + meta.unit;
    root.dataset.cursor = [cursor.z, cursor.y, cursor.x].join(",");
  }

  function listen(canvas, plane) {
    const [across, up, normal] = plane;
    const follow = (event) => {
      const box = canvas.getBoundingClientRect();
      move({
        [across]: Math.floor(((event.clientX - box.left) / box.width) * size[across]),
        [up]: Math.floor((1 - (event.clientY - box.top) / box.height) * size[up]),
      });
    };
    canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); follow(event); });
    canvas.addEventListener("pointermove", (event) => { if (event.buttons & 1) follow(event); });
    canvas.addEventListener("keydown", (event) => {
      const steps = {
        ArrowRight: [across, 1], ArrowLeft: [across, -1], ArrowUp: [up, 1], ArrowDown: [up, -1],
        PageUp: [normal, 1], PageDown: [normal, -1],
      }[event.key];
      if (!steps) return;
      event.preventDefault();
      move({ [steps[0]]: cursor[steps[0]] + steps[1] });
    });
  }

  function fit() {
    // All planes at one scale: the widest row fits, and no picture is higher than a screen is.
    const room = root.clientWidth - 150 - 36, ratio = window.devicePixelRatio || 1;
    const scale = Math.max(0.5, Math.min(room / (2 * nx + nz), 350 / Math.max(ny, nz)));
    for (const view of views) {
      const w = size[view.plane[0]] * scale, h = size[view.plane[1]] * scale;
      view.canvas.style.width = w + "px";
      view.canvas.style.height = h + "px";
      view.canvas.width = Math.round(w * ratio);
      view.canvas.height = Math.round(h * ratio);
    }
  }

  function csv(layer) {
    const parts = layer.kind === "axis" || layer.kind === "vector" ? ["x", "y", "z"] : [""];
    const unit = layer.unit ? " [" + layer.unit + "]" : "";
    const head = parts.map((p) => '"' + layer.title.replaceAll('"', '""') + (p ? " " + p : "") + unit + '"');
    const lines = [["slice", ...["x", "y", "z"].map((n) => n + " [" + meta.unit + "]"), ...head].join(",")];
    for (const plane of PLANES) {
      const [across, up, normal] = plane;
      for (let j = 0; j < size[up]; j++) for (let i = 0; i < size[across]; i++) {
        const at = { [across]: i, [up]: j, [normal]: cursor[normal] };
        const found = [value(layer, at.z * stride.z + at.y * stride.y + at.x)].flat();
        const where = ["x", "y", "z"].map((n) => shown(n, at[n]));
        lines.push([across + "-" + up, ...where, ...found.map((v) => Number(v.toPrecision(4)))].join(","));
      }
    }
    return lines.join("\n") + "\n";
  }

  function save(layer) {
    const link = element("a", { download: "slices-" + layer.id + ".csv" });
    link.href = URL.createObjectURL(new Blob([csv(layer)], { type: "text/csv" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  function addRow(first, bar) {
    const row = { layer: meta.layers[first], views: [] };
    const choice = element("select", { "aria-label": "layer" });
    meta.layers.forEach((layer, i) => choice.append(element("option", { value: i }, layer.title)));
    choice.value = first;
    const get = element("button", { type: "button" }, "these slices as CSV");
    get.addEventListener("click", () => save(row.layer));
    const legend = element("canvas", { width: 220, height: 290, class: "key", "aria-label": "colour key" });
    const pictures = element("div", { class: "planes" });
    for (const plane of PLANES) {
      const canvas = element("canvas", {
        tabindex: 0, class: "slice", "data-plane": plane[0] + "-" + plane[1],
        "aria-label": "slice " + plane[0] + "-" + plane[1] + "; arrow keys move the cursor, page keys the slice",
      });
      listen(canvas, plane);
      const view = { canvas, plane, layer: row.layer, bar: bar && plane === PLANES[0] };
      row.views.push(view);
      views.push(view);
      pictures.append(element("figure", {}, canvas, element("figcaption", {}, plane[0] + " →, " + plane[1] + " ↑")));
    }
    pictures.append(legend);
    choice.addEventListener("change", () => {
      row.layer = meta.layers[Number(choice.value)];
      row.views.forEach((view) => { view.layer = row.layer; });
      key(row.layer, legend);
      refresh();
    });
    key(row.layer, legend);
    rows.push(row);
    root.append(element("div", { class: "bar" }, choice, get), pictures);
  }

  async function start() {
    for (const layer of meta.layers) {
      layer.data = await unpack("layer-" + layer.id);
      layer.colours = layer.palette ? bytesOf(layer.palette) : new Uint8Array();
    }
    root.textContent = "";
    addRow(0, true);
    if (meta.layers.length > 1) addRow(1, false);
    const panel = element("div", { class: "sliders" });
    for (const name of "zyx") {
      const slider = element("input", { type: "range", min: 0, max: size[name] - 1, value: cursor[name], "aria-label": "slice along " + name });
      slider.addEventListener("input", () => move({ [name]: Number(slider.value) }));
      sliders[name] = slider;
      panel.append(element("label", {}, name + " ", slider, element("output", {}, "")));
    }
    root.append(element("div", { class: "below" }, panel, readout));
    fit();
    refresh();
    window.addEventListener("resize", () => { fit(); refresh(); });
    root.dataset.ready = String(Math.round(performance.now()));
  }

  if (typeof DecompressionStream === "undefined") {
    root.textContent = "This browser is too old for the viewer (it has no DecompressionStream); the pictures below show the same volumes.";
  } else {
    start().catch((error) => {
      root.textContent = "The viewer could not start: " + error;
      throw error;
    });
  }
})();
