export * from './igd.js';
export * from './opregion.js';
export * from './physical-memory.js';
