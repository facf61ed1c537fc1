export * from './host.js';
export * from './virtual-config.js';
