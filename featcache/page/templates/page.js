"use strict";
// Tables: a click on a head sorts by that column, numbers as numbers.
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("th").forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const number = (text) => parseFloat(text.replace(/^\D*?([+-]?[\d.])/, "$1"));
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => {
        const [x, y] = [value(a), value(b)], [n, m] = [number(x), number(y)];
        const order = Number.isNaN(n) || Number.isNaN(m) ? x.localeCompare(y) : n - m;
        return down ? -order : order;
      });
      table.tBodies[0].append(...rows);
    });
  });
}
// The map: a canvas, as thousands of elements would be slow; the nearest point is named.
const data = document.getElementById("map-data");
if (data) {
  const points = JSON.parse(data.textContent);
  const canvas = document.querySelector("canvas.map"), said = document.getElementById("map-said");
  const draw = () => {
    const scale = window.devicePixelRatio || 1, side = canvas.clientWidth;
    canvas.width = canvas.height = side * scale;
    const pen = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
    pen.scale(scale, scale);
    points.x.forEach((x, n) => {
      const [a, b] = [12 + x * (side - 24), 12 + (1 - points.y[n]) * (side - 24)];
      pen.fillStyle = style.getPropertyValue("--s" + (points.prediction[n] % 8));
      const wrong = points.truth[n] !== null && points.truth[n] !== points.classes[points.prediction[n]];
      pen.globalAlpha = wrong ? 1 : 0.65;
      pen.beginPath();
      if (wrong) pen.rect(a - 3.5, b - 3.5, 7, 7); else pen.arc(a, b, 2.6, 0, 7);
      pen.fill();
    });
  };
  canvas.addEventListener("pointermove", (event) => {
    const side = canvas.clientWidth, x = (event.offsetX - 12) / (side - 24), y = 1 - (event.offsetY - 12) / (side - 24);
    let best = -1, least = 0.0009;
    points.x.forEach((a, n) => {
      const far = (a - x) ** 2 + (points.y[n] - y) ** 2;
      if (far < least) [best, least] = [n, far];
    });
    said.textContent = best < 0 ? " " : `${points.id[best]}: ${points.classes[points.prediction[best]]} `
      + `(${Math.round(100 * points.confidence[best])} %)` + (points.truth[best] === null ? "" : `, label ${points.truth[best]}`);
  });
  new ResizeObserver(draw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}
