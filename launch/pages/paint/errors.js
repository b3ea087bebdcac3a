// What goes wrong with an engine.

/** What an engine refuses, in its own words. The status is that of HTTP, and `choices` are readings that would help. */
export class Refused extends Error {
  constructor(answer, status) {
    super(answer.error ?? `The server answers with status ${status}.`);
    this.status = status;
    this.choices = answer.choices ?? [];
  }
}

/** No answer at all: the server has ended, or cannot be reached. */
export class Unreachable extends Error {}
