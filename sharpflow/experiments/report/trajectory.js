// A point's trajectory opens at #point-N: a link, a bookmark and the back button all lead there.
"use strict";
(() => {
  const dialog = document.getElementById("trajectory");
  if (!dialog) return;
  const data = JSON.parse(document.getElementById("curves").textContent);
  const charts = document.getElementById("trajectory-charts");
  let shown = null;

  function fill(index) {
    const point = data.points[index];
    shown = index;
    document.getElementById("trajectory-title").textContent = `Point ${index}: ${point.title}`;
    const rows = point.facts.map((fact) => {
      const row = document.createElement("tr");
      for (const text of fact) row.insertCell().textContent = text;
      return row;
    });
    const facts = document.getElementById("trajectory-facts");
    facts.hidden = rows.length === 0;
    facts.tBodies[0].replaceChildren(...rows);
    document.getElementById("trajectory-previous").disabled = index === 0;
    document.getElementById("trajectory-next").disabled = index === data.points.length - 1;
    if (!dialog.open) dialog.showModal();
    draw();
  }

  function draw() {
    const point = data.points[shown];
    if (point.step.length === 0)
      return charts.replaceChildren("Nothing was recorded of this point.");
    const figures = panelsOf(point).map(chart);
    charts.replaceChildren(...figures);
    figures.forEach((figure) => figure.draw());
  }

  // Curves of a panel: measured columns, then what was predicted for them.
  function panelsOf(point) {
    const time = point.tau || point.step;
    const axis = point.tau ? data.times.tau : data.times.step;
    const before = point.before;
    const earlier = before && (point.tau ? before.tau : before.step);
    const begin = earlier && earlier.length > 0 ? earlier[0] : time[0];
    const range = [begin, time[time.length - 1]];
    const predicted = point.predicted;
    const entry = point.entry === null ? null : at(point.entry, point.step, time);
    const panels = data.panels.map((panel) => {
      const curves = panel.columns
        .filter((name) => point.columns[name])
        .map((name) => ({
          name: data.labels[name],
          x: time,
          y: point.columns[name],
          look: lookOf(name),
        }));
      // first, so that what comes after the fork lies over it
      const former = panel.columns.filter((name) => earlier && before.columns[name]);
      curves.unshift(
        ...former.map((name) => ({
          name: "before the fork",
          x: earlier,
          y: before.columns[name],
          look: `${lookOf(name)} pale`,
        })),
      );
      if (predicted && point.tau) {
        const expected = panel.columns.map((name) => expectedOf(name, predicted));
        for (const [name, y] of new Map(expected.filter(([, y]) => y))) {
          curves.push({
            name: data.expected[name] || `predicted ${data.labels[name]}`,
            x: predicted.tau,
            y,
            look: name === "threshold" ? "predicted thick" : "predicted",
          });
        }
      }
      if (panel.line !== null) {
        const expected = entry !== null && point.tau; // with a clock, from the entry on
        curves.push({
          name: expected ? `predicted: ${panel.line}` : `edge: ${panel.line}`,
          x: [expected ? entry : time[0], time[time.length - 1]],
          y: [panel.line, panel.line],
          look: expected ? "predicted thick" : "edge",
        });
      }
      return { title: panel.title, log: panel.log, axis, curves, entry, range };
    });
    if (predicted && point.tau) {
      panels.push({
        title: "tracking error / distance moved",
        log: false,
        axis,
        entry,
        range,
        curves: [
          { name: "measured", x: predicted.tau, y: predicted.columns.tracking, look: "measured" },
        ],
      });
    }
    return panels.filter((panel) =>
      panel.curves.some((curve) => curve.y.some((value) => value !== null)),
    );
  }

  // What the flow says of a column, and under which name. Metrics are looked for among metrics
  // only: they may be called whatever their problem calls them.
  function expectedOf(name, predicted) {
    if (/^sharpness_(iterate|midpoint|manifold)$/.test(name))
      return ["sharpness", predicted.columns.sharpness];
    if (name === "threshold" || name === "loss_mean") return [name, predicted.columns[name]];
    return [name, Object.hasOwn(predicted.metrics, name) ? predicted.metrics[name] : null];
  }

  function lookOf(name) {
    if (data.edges.includes(name)) return "edge";
    return name === "loss_mean" || name === "hessian_sharpness" ? "second" : "measured";
  }

  // The time of a step, between records.
  function at(step, steps, time) {
    const after = steps.findIndex((value) => value >= step);
    if (after <= 0) return time[0];
    const share = (step - steps[after - 1]) / (steps[after] - steps[after - 1] || 1);
    return time[after - 1] + share * (time[after] - time[after - 1]);
  }

  function follow() {
    const found = /^#point-(\d+)$/.exec(location.hash);
    if (found && Number(found[1]) < data.points.length) fill(Number(found[1]));
    else if (dialog.open) dialog.close();
  }

  function step(by) {
    const next = shown + by;
    if (next >= 0 && next < data.points.length) location.replace(`#point-${next}`);
  }

  dialog.addEventListener("close", () => {
    if (location.hash.startsWith("#point-")) history.pushState(null, "", "#grid");
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // beside the dialog
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  document.getElementById("trajectory-close").addEventListener("click", () => dialog.close());
  document.getElementById("trajectory-previous").addEventListener("click", () => step(-1));
  document.getElementById("trajectory-next").addEventListener("click", () => step(1));
  for (const row of document.querySelectorAll("#grid-table tbody tr")) {
    const link = row.querySelector("a");
    if (!link) continue;
    row.classList.add("opens");
    row.addEventListener("click", (event) => {
      if (!event.target.closest("a")) location.hash = link.hash;
    });
  }
  addEventListener("hashchange", follow);
  addEventListener("popstate", follow);
  addEventListener("resize", () => dialog.open && draw());
  follow();
})();
