// Entry of the console.
import { mount } from 'svelte';
import 'uplot/dist/uPlot.min.css';
import './app.css';
import Console from './console/Console.svelte';

const target = document.getElementById('app');
if (target) mount(Console, { target });
