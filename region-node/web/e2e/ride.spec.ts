import { expect, test, type Browser, type BrowserContext, type Page } from '@playwright/test';

// One ride, seen by those who take part in it: two browsers from the estimate to the paid receipt, then the back office and
// the operator.

const tenant = process.env['TENANT'] ?? 'porto-taxis';

interface City {
  driver: { latitude: number; longitude: number };
  pickup: { latitude: number; longitude: number };
  /** What is typed and chosen as drop-off. */
  dropoff: string;
  /** A zone with a queue there, in which the driver waits afterwards. */
  rank?: string;
}

const CITIES: Record<string, City> = {
  'manhattan-cabs': {
    driver: { latitude: 40.7484, longitude: -73.9857 },
    pickup: { latitude: 40.7505, longitude: -73.9834 },
    dropoff: 'Gramercy',
  },
  'porto-taxis': {
    driver: { latitude: 41.1485, longitude: -8.6109 },
    pickup: { latitude: 41.1466, longitude: -8.6148 },
    dropoff: 'Campanh',
    rank: 'Campanhã station',
  },
  'bengaluru-rides': {
    driver: { latitude: 12.9655, longitude: 77.5868 },
    pickup: { latitude: 12.9672, longitude: 77.5899 },
    dropoff: 'Shanthala',
  },
};
const city = CITIES[process.env['CITY'] ?? tenant] ?? CITIES['porto-taxis'];
if (city === undefined) throw new Error('no city');

const faults: string[] = [];

async function person(browser: Browser, name: string, at: City['driver']): Promise<{ context: BrowserContext; page: Page }> {
  // Maps are drawn in software here: small ones without animations leave the processor to the service.
  const context = await browser.newContext({ geolocation: at, permissions: ['geolocation'], locale: 'en-GB', viewport: { width: 900, height: 640 }, reducedMotion: 'reduce' });
  const page = await context.newPage();
  page.on('pageerror', (error) => faults.push(`${name}: ${error.message}`));
  page.on('console', (message) => {
    if (message.type() === 'error') faults.push(`${name}: ${message.text()}`);
  });
  return { context, page };
}

/** Where a marker is drawn. */
async function middle(page: Page, marker: string): Promise<{ x: number; y: number }> {
  const box = await page.getByRole('img', { name: marker, exact: true }).boundingBox();
  if (box === null) throw new Error(`${marker} is not on the map`);
  return { x: box.x + box.width / 2, y: box.y + box.height / 2 };
}

/** What a step needs to sign in; null where the run was not given it. */
function credentials(whose: 'OFFICE' | 'OPERATOR'): { id: string; secret: string } | null {
  const id = process.env[`${whose}_CLIENT_ID`];
  const secret = process.env[`${whose}_CLIENT_SECRET`];
  return id === undefined || secret === undefined ? null : { id, secret };
}

async function signIn(page: Page, client: { id: string; secret: string }): Promise<void> {
  await page.getByLabel('Client id').fill(client.id);
  await page.getByLabel('Client secret').fill(client.secret);
  await page.getByRole('button', { name: 'Sign in' }).click();
}

/** Keeps what a step left on the screen, where the run says into which directory. */
async function keep(page: Page, name: string): Promise<void> {
  const directory = process.env['SCREENSHOTS'];
  if (directory === undefined) return;
  // What stays at the top of the window would else stand where it was scrolled to.
  await page.evaluate('window.scrollTo(0, 0)');
  await page.screenshot({ path: `${directory}/${name}.png`, fullPage: true });
}

/** Returns the phone, once there is an account of it. */
async function register(page: Page, role: 'rider' | 'driver', name: string): Promise<string> {
  await page.goto(`/${role}?tenant=${tenant}`);
  await page.getByText('Create account', { exact: true }).first().click();
  await expect(page.getByText(/At home in/)).toBeVisible();
  await page.getByLabel('Name').fill(name);
  const unique = `${Date.now()}${Math.floor(Math.random() * 90) + 10}`.slice(-11);
  const phone = `+${role === 'rider' ? 1 : 2}${unique}`;
  await page.getByLabel('Phone').fill(phone);
  await page.getByLabel('Password').fill('correct horse battery');
  if (role === 'driver') {
    await page.getByLabel('Model').fill('Toyota Prius');
    await page.getByLabel('Plate').fill(`E2E-${unique.slice(-4)}`);
  }
  await page.getByRole('button', { name: 'Create account' }).click();
  await expect(page.getByRole('button', { name: 'Sign out' })).toBeVisible();
  return phone;
}

test('a ride from the price to the paid receipt', async ({ browser }) => {
  const { page: driver } = await person(browser, 'driver', city.driver);
  const { page: rider } = await person(browser, 'rider', city.pickup);
  const { page: friend } = await person(browser, 'friend', city.pickup);

  await test.step('the driver goes online', async () => {
    await register(driver, 'driver', 'Dario Driver');
    await expect(driver.getByTestId('driver-status')).toHaveText('You are offline');
    await driver.getByRole('button', { name: 'Use my position' }).click();
    await expect(driver.getByRole('img', { name: 'You', exact: true })).toBeVisible();
    await driver.getByRole('button', { name: 'Stop following' }).click();
    await driver.getByRole('button', { name: 'Go online' }).click();
    await expect(driver.getByTestId('driver-status')).toHaveText('You are online');
    await expect(driver.getByText('Offers arrive live.')).toBeVisible();
    await driver.getByRole('button', { name: 'Drive for me' }).click();
    await driver.getByText('Demo', { exact: true }).click();
  });

  await test.step('the rider sees a price and requests', async () => {
    await register(rider, 'rider', 'Rosa Rider');
    await rider.getByRole('button', { name: 'Pick me up where I am' }).click();
    await expect(rider.getByRole('img', { name: 'Pick-up' })).toBeVisible();
    await rider.getByRole('combobox', { name: 'Drop-off' }).fill(city.dropoff);
    await rider.getByRole('option').first().click();
    await expect(rider.getByTestId('fare')).toHaveText(/\d/);
    await rider.getByRole('button', { name: 'Request ride' }).click();
    await expect(rider.getByTestId('ride-headline')).toHaveText(/Looking for a driver|Asking a driver/);
  });

  await test.step('the driver accepts and drives to the pick-up', async () => {
    await expect(driver.getByTestId('offer')).toBeVisible();
    await driver.getByRole('button', { name: 'Accept' }).click();
    await expect(driver.getByTestId('trip-headline')).toHaveText('Drive to the pick-up');
    await expect(rider.getByTestId('ride-headline')).toHaveText('Your driver is on the way');
    await expect(rider.getByRole('img', { name: 'Your driver' })).toBeVisible();
    await expect(driver.getByTestId('distance-left')).toHaveText('You are there');
    // Who has arrived is drawn where the rider waits.
    const [car, pickup] = await Promise.all([middle(driver, 'You'), middle(driver, 'Pick-up')]);
    expect(Math.hypot(car.x - pickup.x, car.y - pickup.y)).toBeLessThan(20);
    await driver.getByRole('button', { name: 'I have arrived' }).click();
    await expect(rider.getByTestId('ride-headline')).toHaveText('Your driver is here');
  });

  await test.step('a friend accepts to share the fare', async () => {
    const phone = await register(friend, 'rider', 'Finn Friend');
    await rider.getByRole('button', { name: 'Ask somebody to share' }).click();
    await rider.getByLabel('Phone of another rider').fill(phone);
    await rider.getByRole('button', { name: 'Ask', exact: true }).click();
    await expect(rider.getByTestId('shares')).toContainText('Asked');
    await expect(friend.getByTestId('invitations')).toContainText('asks you to share a ride');
    await keep(friend, 'share-invitation');
    await friend.getByRole('button', { name: 'Accept' }).click();
    await expect(rider.getByTestId('shares')).toContainText('Accepted');
    await keep(rider, 'share-accepted');
  });

  await test.step('the PIN starts the trip, and it ends at the drop-off', async () => {
    const pin = await rider.getByTestId('pin').innerText();
    await driver.getByLabel("Rider's PIN").fill(pin);
    await driver.getByRole('button', { name: 'Start trip' }).click();
    await expect(rider.getByTestId('ride-headline')).toHaveText('On the way to your drop-off');
    await expect(driver.getByTestId('distance-left')).toHaveText('You are there', { timeout: 120_000 });
    await driver.getByRole('button', { name: 'End trip' }).click();
    await expect(driver.getByTestId('trip-headline')).toHaveText('Trip completed');
    await expect(driver.getByTestId('earned')).toHaveText(/\d/);
  });

  const total = await test.step('the rider pays what the driver sees', async () => {
    await expect(rider.getByTestId('ride-headline')).toHaveText('You have arrived');
    const fare = await rider.getByTestId('total').innerText();
    await expect(driver.getByTestId('total')).toHaveText(fare);
    // About two kilometres as the crow flies: the meter has counted what was driven.
    await expect(rider.getByTestId('driven')).toHaveText(/^[1-9]\d*\.\d km in /);
    await rider.getByRole('button', { name: /^Pay / }).click();
    await expect(rider.getByTestId('payment-status')).toHaveText('Paid');
    await expect(rider.getByRole('heading', { name: 'Receipt' })).toBeVisible();
    const [file] = await Promise.all([rider.waitForEvent('download'), rider.getByRole('button', { name: 'Receipt as PDF' }).click()]);
    expect(file.suggestedFilename()).toMatch(/^receipt-.*\.pdf$/);
    return fare;
  });

  await test.step('the friend pays the other half', async () => {
    await expect(rider.getByTestId('paid-shares')).toContainText('Paid');
    await expect(friend.getByTestId('invitations')).toContainText('Paid');
    await keep(rider, 'share-paid');
    await keep(friend, 'share-charged');
  });

  await test.step('the rider tips the driver', async () => {
    const tip = rider.getByRole('region', { name: 'Tip your driver' });
    await tip.getByRole('radio').first().check({ force: true });
    await tip.getByRole('button', { name: /^Give the tip/ }).click();
    await expect(tip.getByTestId('tip-status')).toHaveText(/^Thank you\. .* go to your driver\.$/);
    await expect(rider.getByTestId('paid-parts')).toContainText('Tip', { timeout: 30_000 });
    await expect(rider.getByTestId('payment-status')).toHaveText('Paid');
  });

  await test.step('the driver sees what he has earned', async () => {
    await expect(driver.getByTestId('balance')).toHaveText(/[1-9]/, { timeout: 30_000 });
    const [file] = await Promise.all([driver.waitForEvent('download'), driver.getByRole('button', { name: 'Statement as PDF' }).click()]);
    expect(file.suggestedFilename()).toMatch(/^statement-\d{4}-\d\d\.pdf$/);
  });

  await test.step('both rate each other', async () => {
    for (const page of [rider, driver]) {
      await page.getByText('5 stars').click({ force: true });
      await page.getByRole('button', { name: 'Send rating' }).click();
      await expect(page.getByText('Thank you for your rating.')).toBeVisible();
    }
  });

  const backOffice = credentials('OFFICE');
  if (backOffice !== null) {
    const { page: office } = await person(browser, 'office', city.driver);
    await test.step('the back office finds the ride, its dispatch and its money', async () => {
      await office.goto(`/office?tenant=${tenant}`);
      await signIn(office, backOffice);
      await expect(office.getByTestId('drivers-shown')).toHaveText(/^[1-9]/);
      if (city.rank !== undefined) {
        const rank = office.getByRole('listitem').filter({ hasText: city.rank });
        await expect(rank).toContainText(/[1-9]\d* waiting/);
        await rank.getByText(city.rank).click();
        await expect(rank.getByRole('row').nth(1)).toContainText('standard');
      }
      await office.getByRole('button', { name: 'Rides', exact: true }).click();
      await office.getByLabel('Status').selectOption('completed');
      await office.getByRole('button', { name: /^Story of ride/ }).first().click();
      const story = office.getByRole('dialog');
      await expect(story.getByRole('heading', { name: 'Payment' })).toBeVisible();
      await expect(story.getByText('Paid', { exact: true }).first()).toBeVisible();
      await expect(story.getByTestId('total')).toHaveText(total);
      await expect(story.getByRole('row').nth(1)).toBeVisible();
      await story.getByRole('button', { name: 'Give credit…' }).click();
      await story.getByLabel(/^Amount/).fill('50');
      await story.getByLabel('Reason').fill('a detour');
      await story.getByRole('button', { name: /^Give .*50/ }).click();
      await expect(story.getByTestId('rider-wallet')).toHaveText(/50/);
      await keep(office, 'rider-wallet');
      await story.getByRole('button', { name: 'Close' }).click();
      await office.getByRole('button', { name: 'Settlements' }).click();
      await expect(office.getByRole('row').nth(1)).toContainText('settlement');
    });

    await test.step('the rider has the credit in his wallet, and tops it up', async () => {
      await rider.reload();
      const wallet = rider.getByRole('region', { name: 'Your wallet' });
      await expect(wallet.getByTestId('wallet-balance')).toHaveText(/50/);
      await expect(wallet).toContainText('A credit: a detour');
      await wallet.getByRole('button', { name: 'Top up…' }).click();
      await wallet.getByLabel(/^Amount/).fill('25');
      await wallet.getByRole('button', { name: /^Top up .*25/ }).click();
      await expect(wallet.getByTestId('wallet-balance')).toHaveText(/75/);
      await keep(rider, 'wallet');
    });

    await test.step('the back office pays a driver out', async () => {
      await office.getByRole('button', { name: 'Money', exact: true }).click();
      await expect(office.getByRole('row').filter({ hasText: 'tenant:revenue' })).toContainText(/[1-9]/);
      const [file] = await Promise.all([office.waitForEvent('download'), office.getByRole('button', { name: 'Statement as table (CSV)' }).click()]);
      expect(file.suggestedFilename()).toMatch(/^statement-\d{4}-\d\d\.csv$/);
      await office.getByRole('button', { name: 'Pay out', exact: true }).first().click();
      await office.getByRole('button', { name: /^Pay out .*[1-9]/ }).click();
      await expect(office.getByRole('row').filter({ hasText: 'tenant:payouts' })).toContainText(/[1-9]/);
      await expect(office.getByRole('table', { name: 'Payouts, newest first' }).getByRole('row').nth(1)).toContainText('tenant_admin');
      const days = office.getByRole('table', { name: 'Settlements by day, newest first' });
      await expect(days.getByRole('row').nth(1)).toContainText(/^\d{4}-\d\d-\d\d[1-9]/);
      const givenUp = office.getByRole('region', { name: 'Given up and sent back' });
      const why = process.env['GIVEN_UP'];
      if (why !== undefined) {
        const row = givenUp.getByRole('row').filter({ hasText: why });
        await expect(row).toContainText('20');
        await keep(office, 'given-up');
        await row.getByRole('button', { name: 'Try again' }).click();
      }
      await expect(givenUp).toContainText('No payments wait for anybody.');
      await keep(office, 'money');
    });

    await test.step('the back office adds a label to the config, edits it, and sees it published', async () => {
      await office.getByRole('button', { name: 'Config', exact: true }).click();
      const label = `seen-${Date.now()}`;
      await office.getByLabel('Label', { exact: true }).fill(label);
      await office.getByLabel('Text', { exact: true }).fill('in a browser');
      await office.getByRole('button', { name: 'Add label' }).click();
      await office.getByRole('button', { name: `Edit labels.${label}` }).click();
      await office.getByLabel(`New value of labels.${label}`).fill('twice');
      await office.getByRole('button', { name: 'Save' }).click();
      const setting = office.getByRole('row').filter({ hasText: `labels.${label}` });
      // Setting, published, draft.
      await expect(setting.getByRole('cell').nth(0)).toHaveText('twice');
      await expect(office.getByText('Draft is published')).toBeVisible();
    });

    await test.step('the back office pins the version that runs, and lets it go', async () => {
      const versions = office.getByRole('region', { name: 'Versions' });
      await expect(versions).toContainText(/Version \d+ runs in /);
      await versions.getByRole('button', { name: 'In every region' }).click();
      await expect(versions.getByText(/^Pinned to \d+$/)).toBeVisible();
      await keep(office, 'versions');
      await versions.getByRole('button', { name: 'Unpin', exact: true }).click();
      await expect(versions.getByText(/^Pinned to \d+$/)).toHaveCount(0);
    });
  }

  const operator = credentials('OPERATOR');
  if (operator !== null) {
    await test.step('the operator sees all regions, and that they agree', async () => {
      const { page: mesh } = await person(browser, 'operator', city.driver);
      await mesh.goto('/mesh');
      await signIn(mesh, operator);
      await expect(mesh.getByRole('article').first()).toContainText('Ready');
      const regions = await mesh.getByRole('article').count();
      await expect(mesh.getByRole('article').filter({ hasText: 'Ready' })).toHaveCount(regions);
      if (regions > 1) await expect(mesh.getByTestId('agreement')).toHaveText(`${regions} regions hold the same facts`);
      // A command waits for its reason, and is kept with what came of it.
      const compare = mesh.getByRole('button', { name: 'Compare with all regions' });
      await expect(compare).toBeDisabled();
      await mesh.getByLabel('Reason').fill('a walk through the console');
      await compare.click();
      await expect(mesh.getByRole('table', { name: 'Commands, newest first' })).toContainText('done');
      await keep(mesh, 'mesh');
    });
  }

  await test.step('a driver whose clock is slow is told that nobody finds him, until it is right', async () => {
    const { page: late } = await person(browser, 'late driver', city.driver);
    await late.addInitScript(() => {
      const right = Date.now.bind(Date);
      Date.now = () => right() - (sessionStorage.getItem('clock') === 'right' ? 0 : 90_000);
    });
    await register(late, 'driver', 'Lara Late');
    await late.getByRole('button', { name: 'Use my position' }).click();
    await late.getByRole('button', { name: 'Go online' }).click();
    await expect(late.getByTestId('late')).toContainText('Riders cannot find you: your positions are 2 min old');
    await keep(late, 'late-driver');
    await late.evaluate(() => sessionStorage.setItem('clock', 'right'));
    await expect(late.getByTestId('late')).toBeEmpty();
    await late.getByRole('button', { name: 'Go offline' }).click();
  });

  expect(faults).toEqual([]);
});
