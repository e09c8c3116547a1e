// The report's charts: SVG at the width that there is, drawn again when it changes, so that text keeps its size on a phone.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const tip = document.getElementById("tip");
  const css = n => `var(--c${n})`;

  // ---- Helpers ------------------------------------------------------------------------------------------------------------
  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    for (const child of children) node.append(child);
    return node;
  };
  const text = (x, y, content, attributes = {}) => make("text", { x, y, ...attributes }, String(content));
  const line = (x1, y1, x2, y2, kind = "axis") => make("line", { x1, y1, x2, y2, class: kind });
  const canvas = (width, height, label) =>
    make("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": label });
  const hover = (node, words) => {
    const show = event => {
      tip.textContent = words;
      tip.hidden = false;
      const box = tip.getBoundingClientRect();
      tip.style.left = Math.max(6, Math.min(event.clientX + 12, innerWidth - box.width - 6)) + "px";
      tip.style.top = (event.clientY + box.height + 24 > innerHeight ? event.clientY - box.height - 12 : event.clientY + 16) + "px";
    };
    node.addEventListener("pointermove", show);
    node.addEventListener("pointerdown", show);
    node.addEventListener("pointerleave", () => { tip.hidden = true; });
    return node;
  };
  const ms = x => x >= 100 ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x >= 1 ? x.toFixed(2) : x >= 0.1 ? x.toFixed(3) : x.toFixed(4);
  const amount = x => {
    for (const unit of ["", " k", " M", " G"]) {
      if (Math.abs(x) < 999.5) return (x === 0 ? "0" : x.toPrecision(3).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "")) + unit;
      x /= 1000;
    }
    return x.toFixed(2) + " T";
  };
  const unit = (x, name) => amount(x).replace(/( ([kMGT]))?$/, (_, __, prefix) => ` ${prefix || ""}${name}`);
  const percent = x => (100 * x).toFixed(1) + " %";
  const sum = xs => xs.reduce((a, b) => a + b, 0);
  const quantile = (sorted, q) => sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))];
  // Steps of 1, 2 or 5 at which an axis is marked.
  const ticks = (low, high, count) => {
    const rough = (high - low) / Math.max(1, count), power = 10 ** Math.floor(Math.log10(rough || 1));
    const step = [1, 2, 5, 10].map(s => s * power).find(s => s >= rough) || power;
    const found = [];
    for (let x = Math.ceil(low / step - 1e-9) * step; x <= high + step * 1e-6; x += step) found.push(Math.abs(x) < step * 1e-9 ? 0 : x);
    return { at: found, show: x => Math.abs(x) >= 1000 ? amount(x) : x.toFixed(Math.max(0, -Math.floor(Math.log10(step) + 1e-9))) };
  };
  const scale = (low, high, from, to) => x => from + (x - low) / (high - low || 1) * (to - from);
  const shorten = (words, width, size = 6.6) => {
    const room = Math.max(4, Math.floor(width / size));
    return words.length <= room ? words : "…" + words.slice(words.length - room + 1);
  };
  const legend = (parent, entries) => {
    const box = document.createElement("div");
    box.className = "legend";
    for (const [colour, words] of entries) {
      const item = document.createElement("span"), dot = document.createElement("span");
      dot.className = `dot c${colour}`;
      item.append(dot, words);
      box.append(item);
    }
    parent.append(box);
  };
  const kindLegend = (parent, p) => {
    const named = p.kinds.filter(k => k.colour).map(k => [k.colour, k.kind]);
    legend(parent, p.kinds.some(k => !k.colour) ? [...named, [0, "other kinds"]] : named);
  };

  // ---- Latency ------------------------------------------------------------------------------------------------------------
  function distribution(box, p, width) {
    const t = p.timings[0], sorted = [...t.samples].sort((a, b) => a - b), n = sorted.length;
    const top = Math.min(sorted[n - 1], quantile(sorted, 0.99) + 0.5 * (quantile(sorted, 0.99) - sorted[0]) + 1e-9);
    const low = sorted[0], span = top - low || low * 0.02 || 1e-6;
    const bins = Math.max(6, Math.min(32, Math.round(width / 16), Math.ceil(Math.sqrt(n) * 1.6)));
    const counts = new Array(bins).fill(0);
    let beyond = 0;
    for (const x of sorted) x > low + span ? beyond++ : counts[Math.min(bins - 1, Math.floor((x - low) / span * bins))]++;
    const height = 230, left = 6, right = width - 6, bottom = height - 24, up = 56;
    const x = scale(low, low + span, left, right), y = scale(0, Math.max(...counts), bottom, up);
    const g = canvas(width, height, `Histogram of ${n} runs: median ${ms(t.warm.p50)} ms, 90th percentile ${ms(t.warm.p90)} ms`);
    const axis = ticks(low, low + span, width / 90);
    for (const v of axis.at) g.append(text(x(v), height - 6, axis.show(v), { "text-anchor": v - low < span * .05 ? "start" : v - low > span * .95 ? "end" : "middle" }));
    counts.forEach((count, i) => {
      if (!count) return;
      const x0 = left + i * (right - left) / bins, w = (right - left) / bins;
      const from = low + i * span / bins, to = low + (i + 1) * span / bins;
      g.append(hover(make("rect", { x: x0 + .75, y: y(count), width: Math.max(1, w - 1.5), height: bottom - y(count), rx: 2, fill: css(1) }),
        `${count} of ${n} runs\n${ms(from)} to ${ms(to)} ms`));
    });
    g.append(line(left, bottom, right, bottom));
    const marks = [["p50", t.warm.p50], ["p90", t.warm.p90], ...(n >= 100 ? [["p99", t.warm.p99]] : [])].filter(([, v]) => v <= low + span);
    marks.forEach(([name, v], row) => {
      const at = x(v), words = `${name} ${ms(v)} ms`, end = at + words.length * 7 + 8 > width;
      g.append(line(at, 4 + 15 * row, at, bottom, "mk"));
      g.append(text(at + (end ? -5 : 5), 13 + 15 * row, words, { class: "strong halo", "text-anchor": end ? "end" : "start" }));
    });
    box.append(g);
    if (beyond) legend(box, [[0, `${beyond} run${beyond > 1 ? "s" : ""} further right, up to ${ms(sorted[n - 1])} ms`]]);
  }

  function samples(box, p, width) {
    const t = p.timings[0], warm = t.warmup, all = [...warm, ...t.samples], n = all.length;
    const sorted = [...all].sort((a, b) => a - b);
    const high = Math.max(...t.samples, quantile(sorted, 0.98)) * 1.02, low = Math.max(0, sorted[0] - 0.15 * (high - sorted[0]));
    const height = 220, left = 44, right = width - 8, bottom = height - 24, up = 10;
    const x = scale(0, Math.max(1, n - 1), left, right), y = scale(low, high, bottom, up);
    const g = canvas(width, height, `Latency of ${t.samples.length} runs in order, after ${warm.length} of warm-up`);
    const axis = ticks(low, high, 5);
    for (const v of axis.at) g.append(line(left, y(v), right, y(v), "rule"), text(left - 6, y(v) + 4, axis.show(v), { "text-anchor": "end" }));
    if (warm.length) {
      g.append(make("rect", { x: left, y: up, width: x(warm.length - 0.5) - left, height: bottom - up, fill: "var(--faint)", opacity: .7 }));
      if (x(warm.length) - left > 60) g.append(text(left + 6, bottom - 6, "warm-up"));
    }
    const r = n > 400 ? 1.6 : n > 120 ? 2.2 : 3;
    all.forEach((v, i) => {
      const shown = Math.min(v, high), dot = make("circle", { cx: x(i), cy: y(shown), r, fill: css(i < warm.length ? 0 : 1), opacity: n > 200 ? .7 : .9 });
      g.append(hover(dot, i < warm.length ? `warm-up ${i + 1}: ${ms(v)} ms` : `run ${i - warm.length + 1}: ${ms(v)} ms`));
    });
    g.append(line(x(warm.length), y(t.warm.p50), right, y(t.warm.p50), "mk"));
    g.append(text(right, y(t.warm.p50) - 5, `median ${ms(t.warm.p50)} ms`, { class: "strong halo", "text-anchor": "end" }));
    g.append(text(left, height - 6, "first"), text(right, height - 6, `run ${t.samples.length}`, { "text-anchor": "end" }));
    box.append(g);
  }

  function scaling(box, p, width) {
    const rows = p.timings, left = 82, height = rows.length * 34 + 4, most = Math.max(...rows.map(t => t.warm.p50));
    const narrow = width < 420, x = scale(0, most, left, width - (narrow ? 112 : 190)), g = canvas(width, height, "Median latency by number of threads");
    rows.forEach((t, i) => {
      const y = i * 34 + 4;
      g.append(text(left - 8, y + 17, `${t.threads} thread${t.threads > 1 ? "s" : ""}`, { "text-anchor": "end" }));
      g.append(hover(make("rect", { x: left, y, width: Math.max(2, x(t.warm.p50) - left), height: 24, rx: 4, fill: css(1) }),
        `${ms(t.warm.p50)} ms, 90 % below ${ms(t.warm.p90)} ms`));
      g.append(text(x(t.warm.p50) + 8, y + 17, `${ms(t.warm.p50)} ms` + (i ? narrow ? ` (× ${t.speedup.toFixed(2)})` : `, ${t.speedup.toFixed(2)} × as fast` : ""), { class: "strong" }));
    });
    box.append(g);
  }

  // ---- Where the time goes ------------------------------------------------------------------------------------------------
  function kinds(box, p, width) {
    const g = canvas(width, 44, "Share of the time by kind of op");
    let at = 0;
    for (const k of p.kinds) {
      const w = k.share * width;
      g.append(hover(make("rect", { x: at, y: 0, width: Math.max(0.5, w - 1.5), height: 40, rx: 3, fill: css(k.colour) }),
        `${k.kind}: ${percent(k.share)}, ${ms(k.ms)} ms`));
      const words = `${k.kind} ${Math.round(100 * k.share)} %`;
      if (w > words.length * 7 + 14) g.append(text(at + 8, 25, words, { style: "fill:var(--card);font-weight:600;pointer-events:none" }));
      at += w;
    }
    box.append(g);
  }

  function modules(box, p, width) {
    const narrow = width < 560, rows = p.modules.map(m => ({ ...m, ms: sum(Object.values(m.kinds)) }));
    const step = narrow ? 38 : 24, left = narrow ? 0 : Math.min(340, Math.max(...rows.map(r => r.module.length)) * 6.8 + 12, width * 0.45);
    const most = Math.max(...rows.map(r => r.ms)), total = sum(rows.map(r => r.ms)) || 1;
    const x = scale(0, most, left, width - 62), g = canvas(width, rows.length * step + 2, "Time by module");
    rows.forEach((row, i) => {
      const y = i * step + (narrow ? 16 : 2), h = narrow ? 14 : 17;
      if (narrow) g.append(text(0, y - 4, shorten(row.module, width)));
      else g.append(text(left - 10, y + 13, shorten(row.module, left - 14), { "text-anchor": "end" }));
      let at = left;
      for (const k of p.kinds) {
        const value = row.kinds[k.kind];
        if (!value) continue;
        const w = x(value) - left;
        g.append(hover(make("rect", { x: at, y, width: Math.max(0.4, w - 0.8), height: h, rx: 1.5, fill: css(k.colour) }),
          `${row.module}\n${k.kind}: ${ms(value)} ms, ${percent(value / total)} of all`));
        at += w;
      }
      g.append(text(at + 6, y + h - 4, ms(row.ms), { class: "strong" }));
    });
    box.append(g);
    kindLegend(box, p);
  }

  // ---- Timeline -----------------------------------------------------------------------------------------------------------
  function timeline(box, p, width) {
    const shown = p.timings.filter(t => t.timeline.lanes.length);
    if (!shown.length) return box.append("No inference was kept.");
    for (const t of shown) {
      const lane = 34, left = t.threads > 1 ? 62 : 0, height = t.threads * lane + 44, most = t.timeline.ms;
      const x = scale(0, most, left, width - 2), g = canvas(width, height, `Timeline of one inference with ${t.threads} threads`);
      g.append(text(0, 12, `${t.threads} thread${t.threads > 1 ? "s" : ""}, ${ms(most)} ms` + (p.emulated ? " (emulated)" : ""), { class: "strong" }));
      const axis = ticks(0, most, width / 80);
      for (const v of axis.at) g.append(line(x(v), 20, x(v), height - 20, "rule"), text(Math.min(x(v), width - 4), height - 6, axis.show(v) + (v === axis.at[axis.at.length - 1] ? " ms" : ""), { "text-anchor": v === 0 ? "start" : x(v) > width - 40 ? "end" : "middle" }));
      for (let i = 0; i < t.threads && t.threads > 1; i++) g.append(text(0, 20 + i * lane + 19, `thread ${i}`));
      for (const [thread, group, start, worked, waited] of t.timeline.lanes) {
        const y = 20 + thread * lane + 2, about = p.groups[group], kind = about ? about.kind : "";
        const words = `group ${group}${kind ? ", mostly " + kind : ""}\n${ms(worked - start)} ms` + (waited - worked > 1e-4 ? `, then ${ms(waited - worked)} ms of waiting` : "") +
          (about ? "\n" + about.modules.join("\n") + (about.more ? `\nand ${about.more} more` : "") : "");
        g.append(hover(make("rect", { x: x(start), y, width: Math.max(0.6, x(worked) - x(start) - 0.4), height: lane - 8, fill: css(p.colour[kind] || 0) }), words));
        if (t.threads > 1) g.append(hover(make("rect", { x: x(worked), y: y + 8, width: Math.max(0, x(waited) - x(worked)), height: lane - 24, fill: "var(--c0)", opacity: .3 }), words));
      }
      box.append(g);
    }
    kindLegend(box, p);
  }

  // ---- Roofline -----------------------------------------------------------------------------------------------------------
  function roofline(box, p, width) {
    const ops = p.ops.filter(o => o.rate && o.intensity > 0), solid = ops.filter(o => o.share > 0.002);
    if (!ops.length) return box.append("No op of this model multiplies.");
    const height = width < 560 ? 300 : 360, left = 56, right = width - 12, bottom = height - 40, up = 26;
    const log = Math.log10, xs = ops.map(o => log(o.intensity)), ys = ops.map(o => log(o.rate));
    const modelled = p.modelled ? p.modelled * p.timings[0].threads : null;
    const x0 = Math.floor(Math.min(...xs) * 2) / 2 - .1, x1 = Math.ceil(Math.max(...xs) * 2) / 2 + .1;
    const y0 = Math.floor(Math.min(...ys)), y1 = Math.max(...ys, modelled ? log(modelled) : -9) + .25;
    const x = scale(x0, x1, left, right), y = scale(y0, y1, bottom, up);
    const g = canvas(width, height, "Multiply-accumulates a second of each op against multiply-accumulates a byte");
    for (let e = Math.ceil(y0); e <= y1; e++) g.append(line(left, y(e), right, y(e), "rule"), text(left - 6, y(e) + 4, amount(10 ** e), { "text-anchor": "end" }));
    for (let e = Math.ceil(x0); e <= x1; e++) g.append(line(x(e), up, x(e), bottom, "rule"), text(x(e), bottom + 16, amount(10 ** e), { "text-anchor": "middle" }));
    g.append(text(0, 12, "MACs a second"), text(right, height - 4, "MACs a byte of operands", { "text-anchor": "end" }));
    const best = Math.max(...(solid.length ? solid : ops).map(o => o.rate)), mover = Math.max(...(solid.length ? solid : ops).map(o => o.bytes_per_s || 0));
    const knee = log(best) - log(mover), from = Math.max(x0, y0 - log(mover));
    if (knee > from) g.append(line(x(from), y(from + log(mover)), x(Math.min(knee, x1)), y(Math.min(knee, x1) + log(mover)), "dash"));
    if (knee < x1) g.append(line(x(Math.max(knee, x0)), y(log(best)), right, y(log(best)), "dash"));
    if (modelled && log(modelled) <= y1) {
      g.append(line(left, y(log(modelled)), right, y(log(modelled)), "mk"));
      g.append(text(left + 6, y(log(modelled)) - 6, `${unit(modelled, "MAC/s")} modelled for binary products of this board`));
    }
    for (const o of [...ops].sort((a, b) => b.share - a.share))
      g.append(hover(make("circle", { cx: x(log(o.intensity)), cy: y(log(o.rate)), r: 3 + 60 * Math.sqrt(Math.min(o.share, .25) / 4) * .5, fill: css(p.colour[o.kind] || 0), "fill-opacity": .55, stroke: css(p.colour[o.kind] || 0) }),
        `${o.module}\n${o.kind} ${o.name}: ${percent(o.share)} of the time\n${unit(o.rate, "MAC/s")}, ${amount(o.intensity)} MACs a byte`));
    box.append(g);
    const here = new Set(ops.map(o => o.kind));
    legend(box, p.kinds.filter(k => here.has(k.kind)).map(k => [k.colour, k.kind]));
    const words = document.createElement("p");
    words.className = "dim";
    words.textContent = `Dashed: the best that an op here reached, ${unit(best, "MAC/s")} (flat) and ${unit(mover, "B/s")} (slope).`;
    box.append(words);
  }

  // ---- Clock, heat, power -------------------------------------------------------------------------------------------------
  function during(box, p, width) {
    const t = p.timings.find(t => t.during.length > 1), card = box.closest(".card");
    const series = !t ? [] : [["mhz", "MHz", "Clock"], ["c", "°C", "Temperature"], ["w", "W", "Power"]]
      .map(([key, unit, name]) => ({ key, unit, name, keys: [...new Set(t.during.flatMap(d => Object.keys(d[key])))] })).filter(s => s.keys.length);
    card.hidden = !series.length;
    for (const s of series) {
      const values = t.during.flatMap(d => Object.values(d[s.key])), height = 130, left = 48, right = width - 8, bottom = height - 20, up = 22;
      const pad = Math.max((Math.max(...values) - Math.min(...values)) * 0.1, Math.max(...values) * 0.01, 0.5);
      const low = Math.max(0, Math.min(...values) - pad), high = Math.max(...values) + pad, end = t.during[t.during.length - 1].at;
      const x = scale(0, end / 1000, left, right), y = scale(low, high, bottom, up), g = canvas(width, height, `${s.name} during the runs`);
      const axis = ticks(low, high, 3), across = ticks(0, end / 1000, width / 100);
      for (const v of axis.at) g.append(line(left, y(v), right, y(v), "rule"), text(left - 6, y(v) + 4, axis.show(v), { "text-anchor": "end" }));
      for (const v of across.at) g.append(text(x(v), height - 4, across.show(v) + " s", { "text-anchor": v === 0 ? "start" : "middle" }));
      g.append(text(0, 12, `${s.name}, ${s.unit}`, { class: "strong" }));
      s.keys.forEach((key, i) => {
        const points = t.during.filter(d => key in d[s.key]).map(d => [x(d.at / 1000), y(d[s.key][key]), d[s.key][key]]);
        const colour = css(i % 6 + 1);
        g.append(make("polyline", { points: points.map(q => q.slice(0, 2).join(",")).join(" "), fill: "none", stroke: colour, "stroke-width": 2 }));
        for (const [cx, cy, v] of points) g.append(hover(make("circle", { cx, cy, r: 4, fill: colour }), `${key}: ${v.toFixed(s.key === "mhz" ? 0 : 2)} ${s.unit}`));
      });
      box.append(g);
      legend(box, s.keys.map((key, i) => [i % 6 + 1, key]));
    }
  }

  // ---- Comparison ---------------------------------------------------------------------------------------------------------
  const verdictColour = v => v === "faster" ? "var(--c3)" : v === "slower" ? "var(--bad)" : "var(--c0)";
  function totals(box, c, width) {
    const rows = c.totals.filter(t => t.ratio !== null), left = 82, right = width - 70, height = rows.length * 38 + 30;
    if (!rows.length) return;
    const reach = Math.max(0.05, ...rows.flatMap(t => [t.ratio - 1, (t.low ?? t.ratio) - 1, (t.high ?? t.ratio) - 1].map(Math.abs))) * 1.15;
    const x = scale(-reach, reach, left, right), g = canvas(width, height, "Change of the median latency");
    const axis = ticks(-100 * reach, 100 * reach, width / 110);
    for (const v of axis.at) g.append(line(x(v / 100), 0, x(v / 100), height - 22, v === 0 ? "mk" : "rule"), text(x(v / 100), height - 6, (v > 0 ? "+" : "") + axis.show(v) + " %", { "text-anchor": "middle" }));
    rows.forEach((t, i) => {
      const y = i * 38 + 18, colour = verdictColour(t.verdict), words = `${t.threads} thread${t.threads > 1 ? "s" : ""}`;
      g.append(text(left - 10, y + 4, words, { "text-anchor": "end" }));
      if (t.low !== null) g.append(make("rect", { x: x(t.low - 1), y: y - 6, width: Math.max(2, x(t.high - 1) - x(t.low - 1)), height: 12, rx: 6, fill: colour, opacity: .35 }));
      g.append(hover(make("circle", { cx: x(t.ratio - 1), cy: y, r: 6, fill: colour }), `${words}: ${ms(t.before_ms)} → ${ms(t.after_ms)} ms\n${t.verdict}`));
      g.append(text(width, y + 4, `${t.ratio > 1 ? "+" : ""}${(100 * (t.ratio - 1)).toFixed(1)} %`, { class: "strong", "text-anchor": "end" }));
    });
    box.append(g);
  }

  function deltas(box, c, width) {
    const rows = c.ops.slice(0, 16), narrow = width < 560, step = narrow ? 38 : 24;
    const name = o => `${o.module} ${o.kind}`, left = narrow ? 0 : Math.min(380, width * .45), most = Math.max(1e-9, ...rows.map(o => Math.abs(o.delta_ms)));
    const x = scale(-most, most, left + 64, width - 64), g = canvas(width, rows.length * step + 4, "Difference of the busy time of ops");
    g.append(line(x(0), 0, x(0), rows.length * step, "mk"));
    rows.forEach((o, i) => {
      const y = i * step + (narrow ? 17 : 3), h = narrow ? 13 : 16, from = Math.min(x(0), x(o.delta_ms)), w = Math.abs(x(o.delta_ms) - x(0));
      if (narrow) g.append(text(0, y - 4, shorten(name(o), width)));
      else g.append(text(left, y + 12, shorten(name(o), left - 4), { "text-anchor": "end" }));
      const sure = o.verdict === "faster" || o.verdict === "slower";
      g.append(hover(make("rect", { x: from, y, width: Math.max(1, w), height: h, rx: 2, fill: o.delta_ms < 0 ? "var(--c3)" : "var(--bad)", opacity: sure ? 1 : .3 }),
        `${o.module}\n${o.kind} ${o.name}: ${ms(o.before_ms)} → ${ms(o.after_ms)} ms\n${o.verdict}`));
      const label = `${o.delta_ms > 0 ? "+" : "−"}${ms(Math.abs(o.delta_ms))}`;
      g.append(text(x(o.delta_ms) + (o.delta_ms < 0 ? -6 : 6), y + h - 4, label, { "text-anchor": o.delta_ms < 0 ? "end" : "start" }));
    });
    box.append(g);
  }

  // ---- Drawing ------------------------------------------------------------------------------------------------------------
  const charts = { distribution, samples, scaling, kinds, modules, timeline, roofline, during, totals, deltas };
  const draw = box => {
    const width = Math.floor(box.clientWidth);
    if (!width || box.drawn === width) return;
    box.drawn = width;
    box.replaceChildren();
    const of = "profile" in box.dataset ? data.profiles[box.dataset.profile] : data.comparisons[box.dataset.comparison];
    charts[box.dataset.chart](box, of, width);
  };
  const watcher = new ResizeObserver(entries => entries.forEach(entry => draw(entry.target)));
  for (const box of document.querySelectorAll(".chart")) {
    draw(box);
    watcher.observe(box);
  }
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
  document.documentElement.dataset.drawn = "yes";
})();
