// Shows the current chord, beat and section while the song plays; a click on the overview or on a bar seeks to it.
(() => {
  const player = () => document.querySelector("#song audio");
  // Index of the last event that starts at or before a time, or -1; events are in order of time.
  const indexAt = (list, time) => {
    let index = -1;
    while (index + 1 < list.length && list[index + 1][0] <= time) index++;
    return index;
  };
  const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

  function show() {
    const song = document.querySelector(".song[data-events]");
    const audio = player();
    if (!song || !audio) return;
    const time = audio.currentTime;
    // The page of the next song reuses the same elements.
    if (song.json !== song.dataset.events) song.events = JSON.parse((song.json = song.dataset.events));
    const { beats = [], chords = [], sections = [], keys = [] } = song.events;
    const now = (name) => song.querySelector(`.now .${name}`);

    now("play").textContent = audio.paused ? "▶" : "❚❚";
    now("clock").textContent = clock(time);
    const chord = indexAt(chords, time);
    now("chord").textContent = chords[chord]?.[1] ?? "";
    now("chord").style.background = chords[chord]?.[2] ?? "none";
    now("next").textContent = chords[chord + 1] ? `→ ${chords[chord + 1][1]}` : "";
    const beat = indexAt(beats, time);
    const bar = beats.slice(0, beat + 1).filter(([, position]) => position === 1).length;
    const meter = Math.max(0, ...beats.map(([, position]) => position));
    now("beats").textContent = beat < 0 ? "" : "○".repeat(meter).replace(/./g, (dot, i) => (i < beats[beat][1] ? "●" : dot));
    const words = [sections[indexAt(sections, time)]?.[1], bar ? `bar ${bar}` : "", keys[indexAt(keys, time)]?.[1]];
    now("place").textContent = audio.error ? "This browser cannot play the file." : words.filter(Boolean).join(" · ");

    song.querySelector(".overview .cursor").style.left = `${(100 * time) / song.querySelector(".overview").dataset.end}%`;
    const cells = [...song.querySelectorAll(".bar")];
    const cell = cells.findLast((bar) => Number(bar.dataset.start) <= time);
    if (!cell) return;
    if (!cell.classList.contains("current")) {
      song.querySelector(".bar.current")?.classList.remove("current");
      cell.classList.add("current");
      const { top, bottom } = cell.getBoundingClientRect();
      if (!audio.paused && (top < 80 || bottom > innerHeight)) cell.scrollIntoView({ behavior: "smooth", block: "center" });
    }
    const cursor = song.querySelector(".sheet .cursor") ?? document.createElement("i");
    cursor.className = "cursor";
    const share = (time - cell.dataset.start) / (cell.dataset.end - cell.dataset.start);
    cursor.style.left = `${100 * Math.min(1, share)}%`;
    if (cursor.parentElement !== cell) cell.append(cursor);
  }

  function follow() {
    show();
    if (player() && !player().paused) requestAnimationFrame(follow);
  }

  // Media events do not bubble; listen to them in the capture phase.
  document.addEventListener("play", follow, true);
  for (const name of ["pause", "seeking", "timeupdate", "error"]) document.addEventListener(name, show, true);
  document.addEventListener("click", (event) => {
    const audio = player();
    const place = event.target.closest(".song .bar, .song .overview");
    if (!audio) return;
    if (event.target.closest(".song .play")) audio.paused ? audio.play().catch(show) : audio.pause();
    if (!place) return;
    const { left, width } = place.getBoundingClientRect();
    const start = Number(place.dataset.start);
    audio.currentTime = start + (Number(place.dataset.end) - start) * ((event.clientX - left) / width);
  });
})();
