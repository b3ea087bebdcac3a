// Images while one paints. One request is under way at a time. When its answer has come, the newest layout follows; what was
// painted in between is skipped, so nothing queues up. If the server is gone, painting goes on, and images come when it is back.

import * as engine from "./engine.js";
import { Refused, Unreachable } from "./errors.js";

const POLL = 500; // milliseconds

/** Tells "status" when what it waits for has changed, "lost" when the server is gone, "back" when it is there again, and "other"
 * when it paints with other runs. */
export class Live extends EventTarget {
  isLost = false;
  problem = "";
  #wanted = 0; // the number of the newest layout
  #done = 0; // and of the last one whose images are shown
  #since = null; // when the first change was made that is not yet sent
  #busy = false;
  #watching = false;

  constructor(info, work, panels) {
    super();
    [this.info, this.work, this.panels] = [info, work, panels];
    work.addEventListener("change", ({ cause }) => this.request(cause === "painted"));
    this.#watch();
  }

  get isWaiting() { return this.panels.some(({ run }) => run.state !== "ready" && run.state !== "failed"); }
  /** Whether the images on the page are those of the layout on the page. */
  get isSettled() { return this.#done === this.#wanted && !this.#busy && !this.isWaiting && !this.isLost; }

  /** Whether a panel shows the images of the layout on the page. It goes on showing older ones if these cannot be made. */
  isShown(panel) { return panel.shownLayout === this.#wanted; }

  /** Asks for the images of the newest layout. The time until they are shown is measured if somebody has painted. */
  request(isPainted = false) {
    this.#wanted++;
    if (isPainted) this.#since ??= performance.now();
    this.#render();
  }

  async #render() {
    if (this.#busy || this.isLost) return;
    this.#busy = true;
    try {
      while (this.#done !== this.#wanted) {
        const number = this.#wanted, since = this.#since, ids = this.work.layout.ids.slice();
        this.#since = null;
        const problems = [];
        for (const panel of this.panels.filter(({ run }) => run.state === "ready")) {
          const problem = await this.#show(panel, ids, number, since);
          if (problem) problems.push(this.panels.length > 1 ? `${panel.run.name}: ${problem}` : problem);
        }
        this.#done = number; // what was refused would be refused again
        this.problem = problems.join(" ");
      }
    } catch (error) {
      this.#lose(error);
    } finally {
      this.#busy = false;
      this.#tell("status");
    }
  }

  /** Shows the images of a layout in a panel. Returns why there are none, if the engine cannot make these: other panels go on. */
  async #show(panel, ids, number, since) {
    let rendered;
    try {
      rendered = await engine.render(panel.number, ids, panel.run, this.info.session);
    } catch (error) {
      if (error instanceof Refused && error.status !== 503 && error.status !== 403) return error.message;
      throw error;
    }
    if (!rendered) return "";
    panel.show(rendered);
    panel.shownLayout = number;
    if (since !== null) requestAnimationFrame(() => {
      panel.latency = performance.now() - since;
      this.#tell("status");
    });
    return "";
  }

  #lose(error) {
    if (!(error instanceof Refused) && !(error instanceof Unreachable)) throw error;
    if (error.status !== 503) {
      this.isLost = true;
      this.#tell("lost");
    }
    this.#watch();
  }

  /** Asks how the runs are until all are compiled and the server is there. */
  async #watch() {
    if (this.#watching) return;
    this.#watching = true;
    let ask = true;
    while (ask) {
      try {
        if (!(await this.#hear())) return;
        ask = this.isWaiting || this.#done !== this.#wanted;
      } catch (error) {
        if (!(error instanceof Refused) && !(error instanceof Unreachable)) throw error;
        if (!this.isLost) {
          this.isLost = true;
          this.#tell("lost");
        }
        this.problem = error instanceof Refused ? error.message : "";
        this.#tell("status");
      }
      if (ask) await new Promise((resolve) => setTimeout(resolve, POLL));
    }
    this.#watching = false;
  }

  /** Asks the server how the runs are. Returns false if the page cannot go on with them. */
  async #hear() {
    const news = await engine.about(), isOther = news.session !== this.info.session;
    if (isOther && !this.#isAlike(news)) {
      this.problem = "The server now paints with other runs. Save your layout, and reload the page.";
      this.#tell("other");
      this.#tell("status");
      return false;
    }
    this.info.session = news.session;
    let changed = this.isLost || isOther;
    this.panels.forEach((panel, i) => {
      changed ||= panel.run.state !== news.runs[i].state && news.runs[i].state === "ready";
      panel.run = news.runs[i];
      panel.wait();
    });
    if (this.isLost) {
      this.isLost = false;
      this.#tell("back");
    }
    this.#tell("status");
    if (changed) this.request();
    else if (this.#done !== this.#wanted) this.#render(); // too many pages waited
    return true;
  }

  /** Learns whether the server was started again meanwhile, before something is saved that depends on its runs. */
  async look() {
    if (await this.#hear() && this.isWaiting) this.#watch();
  }

  /** Whether another server offers the same canvas and as many runs of the same sizes. */
  #isAlike(news) {
    const canvas = (info) => JSON.stringify([info.classes, info.colors, info.width, info.height, info.runs.map((run) => [run.images, run.width, run.height])]);
    return canvas(news) === canvas(this.info);
  }

  #tell(name) { this.dispatchEvent(new Event(name)); }
}
