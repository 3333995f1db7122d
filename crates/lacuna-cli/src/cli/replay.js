"use strict";
(function () {
  var data = JSON.parse(document.getElementById("data").textContent);
  var texts = data.texts;
  function make(parent, name, cls, text) {
    var element = document.createElement(name);
    if (cls) element.className = cls;
    if (text !== undefined) element.textContent = text;
    parent.appendChild(element);
    return element;
  }
  function spelt(id) { return Object.prototype.hasOwnProperty.call(texts, id) ? texts[id] : "‹" + id + "›"; }
  function bytesOf(spelling) { return typeof spelling === "string" ? new TextEncoder().encode(spelling) : spelling; }

  // A character may be cut between tokens: the first of its cells shows it whole, the others nothing.
  function texted(cells) {
    var all = cells.map(function (cell) {
      var spelling = spelt(cell.id);
      return typeof spelling === "string" ? spelling : "▒";
    });
    for (var at = 0; at < cells.length; at++) {
      if (cells[at].kind === "m" || typeof spelt(cells[at].id) === "string") continue;
      var bytes = [];
      for (var end = at; end < cells.length && end < at + 4 && cells[end].kind !== "m"; end++) {
        bytes = bytes.concat(Array.from(bytesOf(spelt(cells[end].id))));
        try {
          all[at] = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(new Uint8Array(bytes));
        } catch (_) { continue; }
        for (var k = at + 1; k <= end; k++) all[k] = "";
        at = end;
        break;
      }
    }
    return all;
  }
  function quality(c) { return c >= 0.9 ? "q4" : c >= 0.7 ? "q3" : c >= 0.5 ? "q2" : c >= 0.3 ? "q1" : "q0"; }

  // The cells after the first `n` refinements, with the blocks that they finished.
  function cellsAfter(request, n) {
    var cells = request.prompt.map(function (id) { return { id: id, kind: "p" }; });
    var prompt = cells.length, seen = 0;
    for (var i = 0; i < request.steps.length; i++) {
      var step = request.steps[i];
      if (step.k === "r") {
        if (seen === n) break;
        seen++;
        cells.forEach(function (cell) { cell.fresh = false; });
        var filled = {};
        step.f.forEach(function (at) { filled[at] = true; });
        step.c.forEach(function (c) {
          cells[c[0]] = { id: c[1], confidence: c[2], kind: filled[c[0]] ? "f" : "m", fresh: !!filled[c[0]], n: seen };
        });
      } else if (step.k === "b") {
        var first = Math.max(step.at, prompt);
        cells.length = first + step.t.length;
        step.t.forEach(function (id, k) {
          var cell = cells[first + k];
          if (!cell || cell.kind === "m" || cell.id !== id) cells[first + k] = { id: id, kind: "e" };
        });
      } else {
        cells.length = Math.min(cells.length, prompt + step.n);
      }
    }
    return cells;
  }

  function draw(pre, cells, ghosts) {
    pre.textContent = "";
    var all = texted(cells);
    cells.forEach(function (cell, at) {
      var text = all[at], span;
      if (cell.kind === "m") {
        span = make(pre, "span", ghosts ? "t m ghost" : "t m", ghosts ? text.replace(/\n/g, "↵") : "▒");
        span.title = "position " + at + ", masked; proposed: " + JSON.stringify(text) + " (" + cell.id + "), confidence " + cell.confidence.toFixed(3);
      } else if (cell.kind === "f") {
        span = make(pre, "span", "t " + quality(cell.confidence) + (cell.fresh ? " new" : ""), text.replace(/\n/g, "↵\n"));
        span.title = "position " + at + ", " + JSON.stringify(text) + " (" + cell.id + "), confidence " + cell.confidence.toFixed(3) + ", filled by refinement " + cell.n;
      } else {
        span = make(pre, "span", "t " + cell.kind, text);
        span.title = "position " + at + (cell.kind === "p" ? ", prompt" : ", end of text, to the end of its block");
      }
    });
  }

  data.requests.forEach(function (request) {
    var section = make(document.getElementById("requests"), "section");
    if (request.title) make(section, "h2", "", request.title);
    else if (data.requests.length > 1) make(section, "h2", "", "Request " + request.request);
    var each = request.refinements ? (request.tokens / request.refinements).toFixed(2) : "0";
    make(section, "p", "facts", request.mode + ", " + request.rule + ", blocks of " + request.blockSize + ", temperature " + request.temperature + ", seed " + request.seed + (request.promptPrecision ? ", prompt in " + request.promptPrecision : "") + (request.cachePrecision ? ", keys and values in " + request.cachePrecision : "") + (request.drafts ? ", drafts by " + request.drafts : "") + (request.constraint ? ", held to " + request.constraint : "") + ": " +
      request.tokens + " tokens in " + request.refinements + " refinements, " + each + " tokens each, ended by " + request.finish);
    var controls = make(section, "div", "controls");
    var play = make(controls, "button", "", "Play");
    play.type = "button";
    var slider = make(controls, "input");
    slider.type = "range";
    slider.min = 0;
    slider.max = request.refinements;
    slider.value = request.refinements;
    slider.setAttribute("aria-label", "refinements shown");
    var said = make(controls, "output");
    var label = make(controls, "label");
    var ghosts = make(label, "input");
    ghosts.type = "checkbox";
    label.appendChild(document.createTextNode(" show what is proposed for masks"));
    var bars = make(section, "div", "pass");
    var counts = request.steps.filter(function (s) { return s.k === "r"; }).map(function (s) { return s.f.length; });
    var most = counts.reduce(function (a, b) { return Math.max(a, b); }, 1);
    var bar = counts.length > 400 ? [] : counts.map(function (count, k) {
      var i = make(bars, "i");
      i.style.height = 100 * count / most + "%";
      i.title = "refinement " + (k + 1) + ": " + count + " filled";
      return i;
    });
    if (bar.length) make(section, "p", "small", "positions filled by each refinement, at most " + most);
    else bars.remove();
    var pre = make(section, "pre");
    function show() {
      var n = Number(slider.value);
      draw(pre, cellsAfter(request, n), ghosts.checked);
      said.textContent = "refinement " + n + " of " + request.refinements;
      bar.forEach(function (i, k) { i.className = k < n ? "done" : ""; });
    }
    var timer = null;
    function stop() { clearInterval(timer); timer = null; play.textContent = "Play"; }
    play.addEventListener("click", function () {
      if (timer !== null) { stop(); return; }
      if (Number(slider.value) >= request.refinements) slider.value = 0;
      play.textContent = "Pause";
      timer = setInterval(function () {
        slider.value = Number(slider.value) + 1;
        show();
        if (Number(slider.value) >= request.refinements) stop();
      }, 125);
      show();
    });
    slider.addEventListener("input", function () { stop(); show(); });
    ghosts.addEventListener("change", show);
    // `#12` in the address opens at refinement 12.
    var asked = /^#(\d+)$/.exec(location.hash);
    if (asked) slider.value = asked[1];
    show();
  });
})();
