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

  // The unit sphere as a mesh of latitudes and longitudes, a little smaller than the lines on it.
  function ball() {
    const [x, y, z] = [[], [], []];
    for (let i = 0; i <= 40; i += 1) {
      const height = (Math.PI * i) / 40;
      const ring = Array.from({ length: 81 }, (_, j) => (2 * Math.PI * j) / 80);
      x.push(ring.map((turn) => 0.985 * Math.sin(height) * Math.cos(turn)));
      y.push(ring.map((turn) => 0.985 * Math.sin(height) * Math.sin(turn)));
      z.push(ring.map(() => 0.985 * Math.cos(height)));
    }
    const shade = color("--head");
    return { type: "surface", x, y, z, showscale: false, hoverinfo: "skip", opacity: 1, colorscale: [[0, shade], [1, shade]], lighting: { ambient: 0.85, diffuse: 0.25, specular: 0.02 }, contours: { x: { highlight: false }, y: { highlight: false }, z: { highlight: false } } };
  }

  function curve([x, y, z], name, line, marker) {
    return { type: "scatter3d", x, y, z, name, mode: marker ? "lines+markers" : "lines", line, marker, hovertemplate: `${name}<extra></extra>` };
  }

  function traces(sphere) {
    const found = [ball()];
    if (sphere.manifold) found.push(curve(sphere.manifold, "minimizers Γ", { color: color("--second"), width: 3 }));
    found.push(curve(sphere.points, "trajectory θₜ", { color: color("--edge"), width: 1 }, { color: color("--measured"), size: 2 }));
    if (sphere.flow) found.push(curve(sphere.flow, "flow ζ(τ)", { color: color("--predicted"), width: 6 }));
    return found;
  }

  // From where the flow is seen in the middle, a little from above.
  function camera(sphere) {
    const [x, y, z] = (sphere.flow || sphere.points).map((values) => values.reduce((a, b) => a + b, 0) / values.length);
    const size = Math.hypot(x, y, z) || 1;
    return { eye: { x: (1.5 * x) / size, y: (1.5 * y) / size, z: (1.5 * z) / size + 0.25 }, projection: { type: "orthographic" } };
  }

  async function draw() {
    loading = loading || load();
    await loading;
    const sphere = spheres[choice ? Number(choice.value) : 0];
    const hidden = { visible: false, showspikes: false, range: [-1.05, 1.05] };
    const layout = { margin: { l: 0, r: 0, t: 0, b: 0 }, paper_bgcolor: "rgba(0,0,0,0)", font: { color: color("--ink") }, legend: { orientation: "h", y: 0 }, scene: { xaxis: hidden, yaxis: hidden, zaxis: hidden, aspectmode: "cube", camera: camera(sphere), dragmode: "orbit" } };
    place.hidden = false;
    await Plotly.react(place, traces(sphere), layout, { displaylogo: false, responsive: true, displayModeBar: false, scrollZoom: true });
    document.getElementById("sphere-still").style.display = "none";
    place.dataset.drawn = sphere.title;
  }

  const seen = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    seen.disconnect();
    draw();
  }, { rootMargin: "200px" });
  seen.observe(document.getElementById("sphere"));
  if (choice) choice.addEventListener("change", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => loading && draw());
})();
