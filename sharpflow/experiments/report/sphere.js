// The sphere turns: plotly is unpacked from the page itself when the sphere comes into sight.
"use strict";
(() => {
  const place = document.getElementById("sphere-turning");
  const packed = document.getElementById("plotly");
  if (!place || !packed || !("DecompressionStream" in window) || !hasWebGL()) return;
  const spheres = JSON.parse(document.getElementById("spheres").textContent);
  const choice = document.getElementById("sphere-choice");
  let loading = null;

  function hasWebGL() {
    const canvas = document.createElement("canvas");
    return Boolean(canvas.getContext("webgl2") || canvas.getContext("webgl"));
  }

  async function load() {
    const bytes = Uint8Array.from(atob(packed.textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    packed.remove();
  }

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const turns = Array.from({ length: 73 }, (_, index) => (Math.PI * index) / 36);

  // The unit sphere as a mesh, smaller than the lines on it: its flat pieces must not cover them.
  function ball() {
    const heights = turns.slice(0, 37);
    const size = 0.985;
    const shade = color("--head");
    const x = heights.map((height) =>
      turns.map((turn) => size * Math.sin(height) * Math.cos(turn)),
    );
    const y = heights.map((height) =>
      turns.map((turn) => size * Math.sin(height) * Math.sin(turn)),
    );
    const z = heights.map((height) => turns.map(() => size * Math.cos(height)));
    const flat = { ambient: 1, diffuse: 0, specular: 0, fresnel: 0 };
    return {
      type: "surface",
      x,
      y,
      z,
      showscale: false,
      hoverinfo: "skip",
      colorscale: [
        [0, shade],
        [1, shade],
      ],
      lighting: flat,
      contours: { x: { highlight: false }, y: { highlight: false }, z: { highlight: false } },
    };
  }

  // Circles about the pole of the view, and through it: they show how the sphere is turned.
  function circles([right, up, toward]) {
    const found = [[], [], []];
    const add = (point) =>
      found.forEach((values, axis) => {
        for (const turn of turns) values.push(point(axis, turn));
        values.push(null);
      });
    for (let k = -2; k <= 2; k += 1) {
      const height = (Math.PI * k) / 6;
      add(
        (axis, turn) =>
          Math.sin(height) * up[axis] +
          Math.cos(height) * (Math.cos(turn) * toward[axis] + Math.sin(turn) * right[axis]),
      );
    }
    for (let k = 0; k < 6; k += 1) {
      const side = (Math.PI * k) / 6;
      add(
        (axis, turn) =>
          Math.sin(turn) * up[axis] +
          Math.cos(turn) * (Math.cos(side) * right[axis] + Math.sin(side) * toward[axis]),
      );
    }
    const [x, y, z] = found.map((values) =>
      values.map((value) => (value === null ? null : 0.99 * value)),
    );
    return {
      type: "scatter3d",
      mode: "lines",
      x,
      y,
      z,
      line: { color: color("--line"), width: 1 },
      hoverinfo: "skip",
      showlegend: false,
    };
  }

  function curve([x, y, z], name, line) {
    return {
      type: "scatter3d",
      x,
      y,
      z,
      name,
      mode: "lines",
      line,
      hovertemplate: `${name}<extra></extra>`,
    };
  }

  function traces(sphere) {
    const found = [ball(), circles(rows(sphere.view))];
    if (sphere.manifold)
      found.push(curve(sphere.manifold, "minimizers Γ", { color: color("--second"), width: 3 }));
    const name = "trajectory θₜ";
    const points = lifted(sphere.points, 1.005);
    found.push({
      ...curve(arcs(points), name, { color: color("--quiet"), width: 2 }),
      hoverinfo: "skip",
      hovertemplate: null,
      showlegend: false,
    });
    found.push({
      ...curve(points, name),
      mode: "markers",
      marker: { color: color("--measured"), size: 2.6, line: { width: 0 } },
    });
    if (sphere.flow)
      found.push(
        curve(
          lifted(sphere.flow, 1.015),
          "flow ζ(τ)",
          { color: color("--predicted"), width: 6 },
        ),
      );
    return found;
  }

  const lifted = (columns, size) =>
    columns.map((values) => values.map((value) => (value === null ? null : size * value)));

  // The way from point to point on the sphere: a straight line would run below its surface.
  function arcs(columns) {
    const found = columns.map(() => []);
    const count = columns[0].length;
    for (let place = 0; place < count; place += 1) {
      const here = columns.map((values) => values[place]);
      const next = columns.map((values) => values[Math.min(place + 1, count - 1)]);
      const parts = Math.max(1, Math.ceil(Math.hypot(...here.map((x, k) => next[k] - x)) / 0.1));
      for (let part = 0; part < parts; part += 1) {
        const between = here.map((x, k) => x + (part / parts) * (next[k] - x));
        const size = Math.hypot(...here) / Math.hypot(...between);
        between.forEach((x, k) => found[k].push(size * x));
      }
    }
    return found;
  }

  const rows = (columns) => [0, 1, 2].map((row) => columns.map((values) => values[row]));

  // From where the still picture is seen.
  function camera(sphere) {
    const [, up, toward] = rows(sphere.view).map(([x, y, z]) => ({ x, y, z }));
    return { eye: toward, up, projection: { type: "orthographic" } };
  }

  async function draw() {
    try {
      loading = loading || load();
      await loading;
      await turn();
    } catch (error) {
      place.hidden = true; // the still picture stays
      throw error;
    }
  }

  async function turn() {
    const sphere = spheres[choice ? Number(choice.value) : 0];
    const hidden = { visible: false, showspikes: false, range: [-1.05, 1.05] };
    const layout = {
      margin: { l: 0, r: 0, t: 0, b: 0 },
      paper_bgcolor: "rgba(0,0,0,0)",
      font: { color: color("--ink") },
      legend: { orientation: "h", y: 0, itemsizing: "constant" },
      scene: {
        xaxis: hidden,
        yaxis: hidden,
        zaxis: hidden,
        aspectmode: "manual",
        aspectratio: { x: 2.1, y: 2.1, z: 2.1 },
        camera: camera(sphere),
        dragmode: "orbit",
      },
    };
    place.hidden = false;
    await Plotly.react(place, traces(sphere), layout, {
      displaylogo: false,
      responsive: true,
      displayModeBar: false,
      scrollZoom: false,
    });
    document.getElementById("sphere-still").style.display = "none";
    place.dataset.drawn = sphere.title;
  }

  const seen = new IntersectionObserver(
    (entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      seen.disconnect();
      draw();
    },
    { rootMargin: "200px" },
  );
  seen.observe(document.getElementById("sphere"));
  if (choice) choice.addEventListener("change", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => loading && draw());
})();
