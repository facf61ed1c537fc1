/** What a drive remembers without power. Counters in the units that their names say. */
export interface NvmePersistentState {
  /** The last shutdown notification was carried out, and nothing was enabled since. */
  readonly clean: boolean;
  readonly powerCycles: number;
  readonly unsafeShutdowns: number;
  readonly blocksRead: number;
  readonly blocksWritten: number;
  readonly readCommands: number;
  readonly writeCommands: number;
  readonly mediaErrors: number;
  readonly errorLogEntries: number;
  /** Saved feature values by `feature` or `feature:selector`. */
  readonly features: Readonly<Record<string, number>>;
}

/** Keeps the state of a drive over the end of the process; without it a process's end is forgotten. */
export interface NvmePersistence {
  /** The state as it was saved, or undefined for a new drive. */
  load(): NvmePersistentState | undefined;
  save(state: NvmePersistentState): void;
}

/** The SMART counters and the record of shutdowns. */
export class NvmeHealth {
  clean = true;
  powerCycles = 1;
  unsafeShutdowns = 0;
  /** In units of 512 bytes. */
  blocksRead = 0;
  blocksWritten = 0;
  readCommands = 0;
  writeCommands = 0;
  mediaErrors = 0;
  errorLogEntries = 0;
  /** Kelvin. */
  temperature = 311;
  features: Record<string, number> = {};
  readonly #persistence: NvmePersistence | undefined;

  constructor(persistence: NvmePersistence | undefined) {
    this.#persistence = persistence;
    const state = persistence?.load();
    if (state === undefined) return;
    Object.assign(this, state);
    this.features = { ...state.features };
    // The process that served this drive has ended since: that is a loss of power.
    this.powerLost();
    this.save();
  }

  save(): void {
    this.#persistence?.save({
      clean: this.clean,
      powerCycles: this.powerCycles,
      unsafeShutdowns: this.unsafeShutdowns,
      blocksRead: this.blocksRead,
      blocksWritten: this.blocksWritten,
      readCommands: this.readCommands,
      writeCommands: this.writeCommands,
      mediaErrors: this.mediaErrors,
      errorLogEntries: this.errorLogEntries,
      features: this.features,
    });
  }

  /** The controller was enabled: from now on power must not go without a shutdown notification. */
  enabled(): void {
    this.clean = false;
    this.save();
  }

  /** A shutdown notification was carried out. */
  shutDown(): void {
    this.clean = true;
    this.save();
  }

  /** Power went and came back. Counted as unsafe where no shutdown notification came before (5.14.1.2). */
  powerLost(): void {
    if (!this.clean) this.unsafeShutdowns += 1;
    this.clean = true;
    this.powerCycles += 1;
  }
}
