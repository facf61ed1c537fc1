#!/usr/bin/env node
// The command is linked by npm before the first build, which a file in dist would miss.
import '../dist/bin.js';
