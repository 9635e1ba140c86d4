// A line chart: axes with ticks, a legend, and the values under the pointer.
"use strict";
function chart({ title, log, axis, curves, entry, range: [first, last] }) {
  const space = { left: 58, right: 12, top: 24, bottom: 40 };
  const figure = document.createElement("figure");
  figure.className = "chart";
  const colors = {
    measured: "--measured",
    second: "--second",
    edge: "--edge",
    predicted: "--predicted",
  };

  const known = (value) => value !== null && (!log || value > 0);
  const values = curves.flatMap(({ y }) => y.filter(known));
  const scaled = log && values.length > 0;
  const bend = scaled ? Math.log10 : (value) => value;
  let [low, high] = [Infinity, -Infinity];
  for (const value of values)
    [low, high] = [Math.min(low, bend(value)), Math.max(high, bend(value))];
  const margin = 0.04 * (high - low) || 0.1 * Math.abs(high) || 0.1;
  [low, high] = [low - margin, high + margin];

  function shown(value) {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    if (size === 0 || (size >= 1e-3 && size < 1e5)) return String(Number(value.toPrecision(4)));
    const [digits, power] = value.toExponential(2).split("e");
    const raised = [...power.replace("+", "")]
      .map((sign) => (sign === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[sign]))
      .join("");
    return Number(digits) === 1 ? `10${raised}` : `${Number(digits)}·10${raised}`;
  }

  function tag(name, attributes, text) {
    const found = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
    if (text !== undefined) found.textContent = text;
    return found;
  }

  // Round numbers over a range: 1, 2 or 5 times a power of ten apart.
  function ticks(from, to, count) {
    const rough = (to - from) / count || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const gap = [1, 2, 5, 10].map((m) => m * power).find((m) => m >= rough);
    const found = [];
    for (let k = Math.ceil(from / gap - 1e-9); k * gap <= to + 1e-9 * gap; k += 1)
      found.push(Number((k * gap).toPrecision(12)));
    return found;
  }

  function logTicks(from, to) {
    if (to - from < 2.2) {
      const found = [];
      for (let power = Math.floor(from); power <= to; power += 1)
        for (const m of to - from < 0.5 ? [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9] : [1, 2, 5])
          found.push(m * 10 ** power);
      const inside = found.filter((v) => Math.log10(v) >= from && Math.log10(v) <= to);
      if (inside.length > 1) return inside;
      return ticks(10 ** from, 10 ** to, 4).filter((v) => v > 0);
    }
    const gap = Math.max(1, Math.ceil((to - from) / 6));
    const found = [];
    for (let power = Math.ceil(from); power <= to; power += 1)
      if (power % gap === 0) found.push(10 ** power);
    return found;
  }

  function line(look) {
    const [kind, more] = look.split(" ");
    const dashed = kind === "predicted" ? "; stroke-dasharray: 5 3" : "";
    const pale = more === "pale" ? "; opacity: 0.4" : "";
    const width = more === "thick" || kind === "edge" ? 2.2 : 1.5;
    return `stroke: var(${colors[kind]}); stroke-width: ${width}${dashed}${pale}`;
  }

  function legend() {
    const found = document.createElement("figcaption");
    found.className = "legend";
    const named = new Map(curves.map(({ name, look }) => [name, look]));
    for (const [name, look] of named) {
      const item = document.createElement("span");
      const sample = tag("svg", { viewBox: "0 0 26 10", "aria-hidden": "true" });
      const mark = tag("path", { d: "M0 5H26" });
      mark.style.cssText = line(look);
      sample.append(mark);
      item.append(sample, name);
      found.append(item);
    }
    return found;
  }

  figure.draw = () => {
    const width = Math.max(figure.clientWidth, 240);
    const height = Math.min(300, Math.max(210, 0.62 * width));
    const [inner, tall] = [width - space.left - space.right, height - space.top - space.bottom];
    const px = (x) => space.left + (inner * (x - first)) / (last - first || 1);
    const py = (y) => space.top + tall * (1 - (bend(y) - low) / (high - low));
    const svg = tag("svg", {
      viewBox: `0 0 ${width} ${height}`,
      height,
      role: "img",
      "aria-label": `${title} against ${axis}`,
    });
    svg.append(tag("text", { x: space.left, y: 14, "font-weight": 600 }, title));
    for (const y of scaled ? logTicks(low, high) : ticks(low, high, 5)) {
      svg.append(
        tag("path", { class: "tick", d: `M${space.left} ${py(y)}H${width - space.right}` }),
      );
      svg.append(tag("text", { x: space.left - 6, y: py(y) + 4, "text-anchor": "end" }, shown(y)));
    }
    for (const x of ticks(first, last, width < 420 ? 4 : 6)) {
      svg.append(tag("path", { class: "tick", d: `M${px(x)} ${space.top}v${tall}` }));
      svg.append(
        tag("text", { x: px(x), y: height - space.bottom + 16, "text-anchor": "middle" }, shown(x)),
      );
    }
    svg.append(
      tag("text", { x: space.left + inner / 2, y: height - 6, "text-anchor": "middle" }, axis),
    );
    if (entry !== null && entry > first && entry < last) {
      svg.append(tag("path", { class: "reading", d: `M${px(entry)} ${space.top}v${tall}` }));
      svg.append(tag("text", { x: px(entry) + 4, y: space.top + 12 }, "entry"));
    }
    for (const { x, y, look } of curves) {
      let d = "";
      let drawing = false;
      y.forEach((value, index) => {
        if (known(value))
          d += `${drawing ? "L" : "M"}${px(x[index]).toFixed(1)} ${py(value).toFixed(1)}`;
        drawing = known(value);
      });
      const path = tag("path", { d });
      path.style.cssText = line(look);
      svg.append(path);
    }
    svg.append(tag("path", { class: "frame", d: `M${space.left} ${space.top}v${tall}h${inner}` }));
    const pointer = tag("path", { class: "reading", d: "", visibility: "hidden" });
    svg.append(pointer);
    const caption = legend();
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const x = first + ((last - first) * (event.clientX - box.left - space.left)) / inner;
      if (x < first || x > last) return;
      pointer.setAttribute("d", `M${px(x)} ${space.top}v${tall}`);
      pointer.setAttribute("visibility", "visible");
      const pale = (curve) => curve.look.endsWith("pale");
      const before = curves.some((curve) => pale(curve) && x <= curve.x[curve.x.length - 1]);
      const read = curves
        .filter((curve) => !curves.some(pale) || before === pale(curve))
        .map((curve) => `${curve.name} ${shown(curve.y[nearest(curve.x, x)])}`);
      caption.replaceChildren(
        `${axis.split(" ").find((word) => /^[τt]/.test(word))} ≈ ${shown(x)}: ${read.join(", ")}`,
      );
    });
    svg.addEventListener("pointerleave", () => {
      pointer.setAttribute("visibility", "hidden");
      caption.replaceChildren(...legend().childNodes);
    });
    figure.replaceChildren(svg, caption);
  };

  function nearest(x, wanted) {
    let best = 0;
    x.forEach((value, index) => {
      if (Math.abs(value - wanted) < Math.abs(x[best] - wanted)) best = index;
    });
    return best;
  }
  return figure;
}
