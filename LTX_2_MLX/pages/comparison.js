"use strict";
const data = JSON.parse(document.getElementById("page-data").textContent);
const element = (id) => document.getElementById(id);
const canvas = element("canvas"), viewer = element("viewer"), context = canvas.getContext("2d");
const split = element("split"), frame = element("frame"), zoom = element("zoom");
const left = element("left"), right = element("right"), play = element("play"), sound = element("sound");

const video = document.createElement("video");
video.loop = true; video.muted = true; video.playsInline = true;
// Browsers decode what is in the page only; it is drawn by the canvas.
video.className = "hidden"; video.setAttribute("aria-hidden", "true"); video.tabIndex = -1;
viewer.append(video);
const packed = atob(element("video-data").textContent);
const bytes = Uint8Array.from(packed, (letter) => letter.charCodeAt(0));
video.src = URL.createObjectURL(new Blob([bytes], {type: "video/mp4"}));

// Centre of the view in shares of the picture.
const centre = {x: 0.5, y: 0.5};
left.value = "0"; right.value = "1"; frame.max = data.frames - 1;

function place(index) { // rectangle of a panel on the canvas
  const width = data.widths[index], height = data.height;
  const fit = canvas.width / Math.max(data.widths[left.value], data.widths[right.value]);
  const scale = zoom.value === "fit" ? fit : Number(zoom.value) * (window.devicePixelRatio || 1);
  // Panels of two shapes are shown in the size of the left one.
  const shown = {width: data.widths[left.value] * scale, height: height * scale};
  const x = canvas.width / 2 - centre.x * shown.width, y = canvas.height / 2 - centre.y * shown.height;
  let start = 0;
  for (let i = 0; i < index; i++) start += data.widths[i];
  return [start, 0, width, height, x, y, shown.width, shown.height];
}

function draw() {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.round(viewer.clientWidth * ratio);
  const height = Math.round(width * data.height / data.widths[left.value]);
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  context.imageSmoothingEnabled = zoom.value === "fit" || zoom.value === "1";
  context.clearRect(0, 0, width, height);
  if (video.readyState < 2) return;
  const line = Math.round(width * split.value / split.max);
  for (const [chosen, x, extent] of [[left.value, 0, line], [right.value, line, width - line]]) {
    context.save();
    context.beginPath(); context.rect(x, 0, extent, height); context.clip();
    context.drawImage(video, ...place(Number(chosen)));
    context.restore();
  }
  context.fillStyle = "#fff";
  context.fillRect(line - ratio, 0, 2 * ratio, height);
}

function current() { return Math.min(data.frames - 1, Math.floor(video.currentTime * data.rate + 1e-3)); }

function show() {
  const index = current();
  frame.value = index;
  frame.setAttribute("aria-valuetext", `frame ${index}`);
  element("position").textContent = `${index} of ${data.frames - 1}, ${(index / data.rate).toFixed(2)} s`;
  element("left-label").textContent = data.labels[left.value];
  element("right-label").textContent = data.labels[right.value];
  const [start, end, width] = data.plot;
  const x = start + (width - start - end) * index / Math.max(1, data.frames - 1);
  for (const marker of document.querySelectorAll("svg .marker")) { marker.setAttribute("x1", x); marker.setAttribute("x2", x); }
  draw();
}

function seek(index) {
  video.currentTime = (Math.max(0, Math.min(data.frames - 1, index)) + 0.5) / data.rate;
}

function toggle() { if (video.paused) video.play(); else video.pause(); }

function step(by) { video.pause(); seek(current() + by); }

function loop() { show(); if (!video.paused) requestAnimationFrame(loop); }

video.addEventListener("play", () => { play.textContent = "Pause"; play.setAttribute("aria-pressed", "true"); loop(); });
video.addEventListener("pause", () => { play.textContent = "Play"; play.setAttribute("aria-pressed", "false"); show(); });
for (const event of ["seeked", "loadeddata"]) video.addEventListener(event, show);
video.addEventListener("loadeddata", () => seek(0), {once: true});
// A frame is there to be drawn a little after its seek has ended.
function presented() { show(); video.requestVideoFrameCallback(presented); }
if ("requestVideoFrameCallback" in video) video.requestVideoFrameCallback(presented);
viewer.style.maxWidth = `${80 * data.widths[0] / data.height}vh`;
play.addEventListener("click", toggle);
element("back").addEventListener("click", () => step(-1));
element("forward").addEventListener("click", () => step(1));
frame.addEventListener("input", () => { video.pause(); seek(Number(frame.value)); });
split.addEventListener("input", draw);
for (const choice of [left, right, zoom]) choice.addEventListener("change", show);
sound.addEventListener("click", () => { video.muted = !video.muted; sound.setAttribute("aria-pressed", String(!video.muted)); });
window.addEventListener("resize", draw);

document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, select, button, summary") && event.key !== " ") return;
  if (event.target.matches("button, select, summary")) return;
  if (event.key === " ") { event.preventDefault(); toggle(); }
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});

viewer.addEventListener("pointerdown", (event) => {
  viewer.setPointerCapture(event.pointerId);
  const line = viewer.clientWidth * split.value / split.max;
  const x = event.clientX - viewer.getBoundingClientRect().left;
  // With a zoom, only a press near the line moves the line.
  const pans = zoom.value !== "fit" && Math.abs(x - line) > 24;
  let last = event;
  const move = (next) => {
    if (pans) {
      const ratio = window.devicePixelRatio || 1;
      const [, , , , , , width, height] = place(Number(left.value));
      centre.x = Math.max(0, Math.min(1, centre.x - (next.clientX - last.clientX) * ratio / width));
      centre.y = Math.max(0, Math.min(1, centre.y - (next.clientY - last.clientY) * ratio / height));
    } else {
      const share = (next.clientX - viewer.getBoundingClientRect().left) / viewer.clientWidth;
      split.value = Math.max(0, Math.min(1, share)) * split.max;
    }
    last = next;
    draw();
  };
  move(event);
  viewer.addEventListener("pointermove", move);
  viewer.addEventListener("pointerup", () => viewer.removeEventListener("pointermove", move), {once: true});
});

for (const plot of document.querySelectorAll("[data-plot]")) {
  plot.addEventListener("click", (event) => {
    const [start, end, width] = data.plot, box = plot.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * width;
    video.pause();
    seek(Math.round((x - start) / (width - start - end) * (data.frames - 1)));
  });
}
