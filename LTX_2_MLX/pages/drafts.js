"use strict";
const videos = [...document.querySelectorAll(".draft video")];
const all = document.getElementById("all");
let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;
const visible = new Set();

function update() {
  for (const video of videos) {
    if (playing && visible.has(video)) video.play().catch(() => {}); else video.pause();
  }
  all.textContent = playing ? "Pause all" : "Play all";
  all.setAttribute("aria-pressed", String(!playing));
}

const observer = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) visible.add(entry.target); else visible.delete(entry.target);
  }
  update();
});

for (const video of videos) {
  // Safari plays no video from a data: address.
  const packed = atob(video.parentElement.querySelector(".video-data").textContent);
  const bytes = Uint8Array.from(packed, (letter) => letter.charCodeAt(0));
  video.src = URL.createObjectURL(new Blob([bytes], {type: "video/mp4"}));
  observer.observe(video);
}
all.addEventListener("click", () => { playing = !playing; update(); });

function copySelected(source) { // where the clipboard's own interface is not allowed
  const range = document.createRange(), selection = getSelection();
  range.selectNodeContents(source);
  selection.removeAllRanges(); selection.addRange(range);
  return document.execCommand("copy");
}

for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.copies);
    let copied = false;
    try {
      await navigator.clipboard.writeText(source.textContent);
      copied = true;
    } catch {
      copied = copySelected(source);
    }
    const status = button.parentElement.querySelector("[role=status]");
    status.textContent = copied ? "Copied" : "Select the command and copy it";
    setTimeout(() => { status.textContent = ""; }, 4000);
  });
}
